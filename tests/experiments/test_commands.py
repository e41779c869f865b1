"""The commands as a person runs them, and every mistake's one line."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

from caco_jax import methods
from caco_jax.programs import cli, command, demo, knn, linear_probe, pretrain
from caco_jax.programs.flags import parser_of
from caco_jax.runs.machine import processor
from caco_jax.runs.pretraining import Pretraining
from caco_jax.runs.workdir import Workdir
from tests.experiments.commands import (
    CONFIG,
    ROOT,
    TINY,
    call,
    one_line,
    save_state,
    succeeded,
)
from tests.runs.test_checkpoints import snapshot

# One worker runs them all: they share what a fixture trained.
pytestmark = pytest.mark.xdist_group("commands")

MAINS = {
    "pretrain": pretrain.main,
    "demo": demo.main,
    "knn": knn.main,
    "linear_probe": linear_probe.main,
}


def run(name, *flags):
    """The command in a process of its own, from the repository's root."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("XLA_FLAGS", None)  # one device, as people have
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def check_trained(out, err, workdir):
    """What a run says of itself, and what it leaves."""
    assert re.fullmatch(
        rf"The run in {workdir} is complete: 2 epochs, \d+ s, [\d,]+ images/s\.\n", out
    )
    last = r"^epoch 2 of 2: loss \d+\.\d{3}, kNN [\d.]+%, [\d,]+ images/s$"
    assert re.search(last, err, re.MULTILINE)
    files = Workdir(workdir)
    assert [row["epoch"] for row in files.read_metrics()] == [1, 2]
    assert files.read_config()["encoder"]["projector_widths"] == [8, 8, 4]


def test_pretraining_trains_and_says_what_it_did(trained):
    check_trained(trained.out, trained.err, trained.workdir)


def test_pretraining_again_in_a_process_finds_the_run_complete(trained):
    before = snapshot(trained.workdir)
    again = run("pretrain", CONFIG, f"--workdir={trained.workdir}", *TINY)
    assert succeeded(again) == trained.out
    assert snapshot(trained.workdir) == before


@pytest.mark.slow
def test_pretraining_trains_in_a_process(tmp_path):
    status, out, err = run("pretrain", CONFIG, f"--workdir={tmp_path / 'run'}", *TINY)
    assert status == 0, err
    check_trained(out, err, tmp_path / "run")


def test_a_dry_run_says_what_is_to_be_done(trained):
    flags = [CONFIG, f"--workdir={trained.workdir}", *TINY, "--dry_run"]
    before = snapshot(trained.workdir)
    nothing = succeeded(call(pretrain.main, *flags))
    assert "steps 8 to 8 are to be done" in nothing
    assert " s a step" not in nothing
    anew = succeeded(call(pretrain.main, *flags, "--force_new"))
    assert "steps 0 to 8 are to be done" in anew
    assert re.search(r"about \d+ s on this machine, [\d.e-]+ s a step", anew)
    assert snapshot(trained.workdir) == before


def check_demo(out, workdir):
    """The demo's table, its figures, and its JSON."""
    found = json.loads((workdir / "demo.json").read_text())
    figures = {"knn", "linear", "few_shot_mean", "few_shot_std"}
    assert {key: set(row) for key, row in found.items() if isinstance(row, dict)} == {
        "pretrained": figures,
        "random_encoder": figures,
        "raw_pixels": figures,
    }
    numbers = {key for key, value in found.items() if isinstance(value, int | float)}
    assert numbers == {"pretrain_seconds", "images_per_second", "peak_memory_bytes"}
    assert len(found) == 7
    assert f" MB, on {found['machine']}.\n" in out
    assert found["machine"].startswith(f"{processor()}, ")
    rows = {
        "pretrained encoder": found["pretrained"],
        "random encoder": found["random_encoder"],
        "raw pixels": found["raw_pixels"],
    }
    for name, row in rows.items():
        assert all(0 <= value <= 1 for value in row.values())
        expected = f"{name} {row['knn']:.1%} {row['linear']:.1%} "
        expected += f"{row['few_shot_mean']:.1%} ± {row['few_shot_std']:.1%}"
        assert expected in re.sub(" +", " ", out)
    assert "Handwritten digits, 16 held out:" in out
    assert f"2 epochs in {found['pretrain_seconds']:.0f} s" in out
    for figure in ("learning_curves", "bank_use", "embedding_map"):
        image = (workdir / f"{figure}.png").read_bytes()
        assert image.startswith(b"\x89PNG")
        assert len(image) > 5000


# The map needs 30 neighbours, more images than the tiny run holds out.
@pytest.mark.filterwarnings("ignore:.*perplexity.*")
def test_the_demo_trains_evaluates_draws_and_prints_one_table(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained.workdir, workdir)
    flags = [CONFIG, f"--workdir={workdir}", *TINY, "--fresh"]
    check_demo(succeeded(call(demo.main, *flags)), workdir)
    assert (tmp_path / "run.old" / "config.json").exists()  # it started over


@pytest.fixture
def no_extras(monkeypatch, tmp_path):
    """A process of its own finds none of the packages of the extra ``data``."""
    for module in ("cv2", "grain"):
        missing = f"raise ModuleNotFoundError(name={module!r})"
        (tmp_path / f"{module}.py").write_text(missing)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.slow
def test_the_demo_of_a_finished_run_needs_no_extras(trained, no_extras, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained.workdir, workdir)
    check_demo(succeeded(run("demo", CONFIG, f"--workdir={workdir}", *TINY)), workdir)


def test_the_demos_own_recipe_and_place_are_the_defaults():
    flags = parser_of("demo").parse_args([])
    expected = command.read_config("configs/caco_digits.py", [])
    assert command.read_config(flags.config, []) == expected
    assert (flags.workdir, flags.fresh) == ("runs/caco_digits", False)
    for word in ("--fresh", "--force_new"):
        assert parser_of("demo").parse_args([word]).fresh


@pytest.mark.slow
def test_a_mistake_is_one_line_on_stderr_and_status_2(tmp_path):
    workdir = tmp_path / "none"
    line = one_line(run("pretrain", "--config=none.py", f"--workdir={workdir}"))
    assert line.startswith("--config: expected the path of a recipe, or one")
    assert line.endswith("; got none.py: no such file")


@pytest.mark.parametrize("name", list(MAINS))
def test_help_is_given(name):
    status, out, err = call(MAINS[name], "--help")
    assert (status, err) == (0, "")
    assert "usage: " in out
    assert "--workdir" in out
    assert MAINS[name].__globals__["__doc__"].split(".")[0][:30] in out


@pytest.mark.parametrize("name", ["pretrain", "demo"])
@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--config.optimizer.learning_rat=1"],
            "config.optimizer.learning_rat: no such key; did you mean learning_rate?",
        ),
        (
            ["--config.optimizer.learning_rate=fast"],
            "config.optimizer.learning_rate: expected float, got 'fast'",
        ),
        (
            ["--config.training.batch_size=1352"],
            "config.training.batch_size: expected at most 1347, the training images of "
            "digits, got 1352",
        ),
        (
            ["--config.method.bank_size=1"],
            "config.method.bank_size: expected a number in [2, inf), got 1",
        ),
        (
            ["--config.method.temperature=-0.1"],
            "config.method.temperature: expected a number in (0, inf), got -0.1",
        ),
        (
            ["--config.data.source=cifar"],
            "config.data.source: expected one of cifar10, cifar100, digits",
        ),
        (
            ["--config.encoder.projector_widths=(8, 4)"],
            "config.encoder.projector_widths: expected (hidden, hidden, dim) for the "
            "caco projector, got (8, 4)",
        ),
        (["--config.seed", "3"], "--config.seed: expected --config.seed=VALUE; see"),
        (["--config.seed"], "--config.seed: expected --config.seed=VALUE"),
        (["--confg=x"], "unrecognized arguments: --confg=x; did you mean --c"),
        (["--config=configs"], "--config: expected the path of a recipe, or one of "),
    ],
)
def test_an_impossible_configuration_touches_nothing(tmp_path, name, flags, message):
    workdir = tmp_path / "run"
    told = one_line(call(MAINS[name], CONFIG, f"--workdir={workdir}", *flags))
    assert told.startswith(message)
    assert not workdir.exists()


@pytest.mark.parametrize("name", ["pretrain", "demo"])
def test_a_directory_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    workdir = tmp_path / "file" / "run"
    assert one_line(call(MAINS[name], CONFIG, f"--workdir={workdir}", *TINY)) == (
        f"--workdir: cannot write to {workdir}: Not a directory; name a directory that "
        "you may write to"
    )


@pytest.mark.parametrize("name", ["pretrain", "demo"])
def test_a_run_of_another_configuration_is_left_alone(tmp_path, name):
    files = Workdir(tmp_path / "run")
    files.claim({"seed": 5, "method": {"name": "caco"}})
    before = snapshot(files.path)
    message = one_line(call(MAINS[name], CONFIG, f"--workdir={files.path}", *TINY))
    assert message.startswith(
        f"--workdir: expected a run of this configuration, got {files.path} with "
    )
    assert "seed (5 in the run, 0 now)" in message
    assert "encoder.width (64 in the run, 4 now)" in message
    assert message.endswith("or --force_new to start over (the old run is moved aside)")
    assert snapshot(files.path) == before


def test_what_must_be_given_is_asked_for():
    message = "the following arguments are required: --config, --workdir; see --help"
    assert one_line(call(pretrain.main)) == message
    for main in (knn.main, linear_probe.main):
        message = "the following arguments are required: --workdir; see --help"
        assert one_line(call(main)) == message


@pytest.mark.parametrize("name", ["knn", "linear_probe"])
def test_a_directory_without_a_run_says_what_to_do_first(tmp_path, name):
    for path in (tmp_path, tmp_path / "none"):
        assert one_line(call(MAINS[name], f"--workdir={path}")) == (
            f"--workdir: expected the directory of a run, got {path}: it has no "
            "config.json; run caco pretrain first"
        )


@pytest.mark.parametrize(
    "name, flags, message",
    [
        ("knn", ["--k=a"], "argument --k: invalid int value: 'a'; see --help"),
        ("knn", ["--seed=1"], "unrecognized arguments: --seed=1; see --help"),
        ("knn", ["--config.seed=1"], "unrecognized arguments: --config.seed=1; see"),
        ("linear_probe", ["--config.seed=1"], "unrecognized arguments: --config.seed"),
        ("linear_probe", ["--l2=x"], "argument --l2: invalid float value: 'x'; see"),
    ],
)
def test_an_evaluation_takes_no_flags_but_its_own(tmp_path, name, flags, message):
    told = one_line(call(MAINS[name], f"--workdir={tmp_path}", *flags))
    assert told.startswith(message)


@pytest.mark.parametrize(
    "name, flags, message",
    [
        ("knn", ["--k", "0"], "--k, --temperature: k: expected "),
        ("knn", ["--k", "5", "65"], "--k, --temperature: k: expected "),
        ("knn", ["--temperature=-1"], "--k, --temperature: temperature: expected "),
        ("linear_probe", ["--l2=-1"], "--l2: l2: expected "),
        ("linear_probe", ["--l2=nan"], "--l2: l2: expected "),
    ],
)
def test_an_impossible_evaluation_writes_nothing(trained, name, flags, message):
    before = snapshot(trained.workdir)
    told = one_line(call(MAINS[name], f"--workdir={trained.workdir}", *flags))
    assert told.startswith(message)
    assert snapshot(trained.workdir) == before


def test_a_run_that_diverges_stops_with_status_1_and_says_where(tmp_path):
    workdir = tmp_path / "run"
    flags = [f"--workdir={workdir}", *TINY, "--config.optimizer.learning_rate=1e30"]
    status, out, err = call(pretrain.main, CONFIG, *flags)
    assert (status, out) == (1, "")
    assert re.fullmatch(
        r"stopped: step \d+: .*encoder no longer finite; nothing was saved yet\. "
        r"Lower the learning rate or raise the temperature",
        err.splitlines()[-1],
    )
    assert "Traceback" not in err
    assert Workdir(workdir).read_metrics() == []


# Runs that no configuration describes.


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A run that was built in Python and saved before its first step."""

    def view(key, example):
        return example + 0.1 * jax.random.normal(key, example.shape)

    run = Pretraining(
        method=methods.caco(bank_size=16),
        encoder=nn.Dense(4),
        views=(view, view),
        data=np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32),
        batch_size=8,
    )
    return save_state(tmp_path_factory.mktemp("built"), run)


@pytest.mark.parametrize(
    "words",
    [
        *("knn", "probe", "few-shot", "fine-tune", "health", "report"),
        *("analyse alpha", "analyse bank", "convert export --file=weights.pkl"),
    ],
)
def test_a_run_that_was_built_in_python_is_evaluated_there(built, words):
    program, rest = cli.PROGRAMS, words.split()
    while isinstance(program, dict):
        program = program[rest.pop(0)]
    main = importlib.import_module(f"caco_jax.programs.{program}").main
    before = snapshot(built)
    assert one_line(call(main, *rest, f"--workdir={built}")) == (
        f"--workdir: expected a run of a configuration, got {built}, which was built "
        f"in Python (Dense); evaluate it there: Pretraining(...).load({str(built)!r})"
    )
    assert snapshot(built) == before


def test_a_run_that_was_built_in_python_is_gone_on_with_there(built):
    before = snapshot(built)
    message = one_line(call(pretrain.main, CONFIG, f"--workdir={built}", *TINY))
    assert message == (
        f"--workdir: expected a run of a configuration, got {built} with a run built "
        "in Python; use another workdir, or --force_new to start over (the old run is "
        "moved aside)"
    )
    assert snapshot(built) == before
