"""The commands as a person runs them, and every mistake's one line."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from caco_jax.programs import command, demo, knn, linear_probe, pretrain
from caco_jax.runs.checkpoints import Checkpoints, Workdir
from caco_jax.runs.fit import config_values
from caco_jax.training.sharding import make_mesh
from tests.runs import tiny
from tests.training.test_checkpoints import snapshot

# One worker runs them all: they share what a fixture trained.
pytestmark = pytest.mark.xdist_group("commands")

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "--config=configs/caco_digits.py"
MAINS = {
    "pretrain": pretrain.main,
    "demo": demo.main,
    "knn": knn.main,
    "linear_probe": linear_probe.main,
}
TINY = [
    "--config.encoder.width=4",
    "--config.encoder.projector_widths=(8, 8, 4)",
    "--config.method.bank_size=16",
    "--config.data.source=fake:8x8x1x160",
    "--config.training.batch_size=32",
    "--config.training.epochs=2",
    "--config.optimizer.warmup_epochs=0",
    "--config.bank_optimizer.warmup_epochs=0",
    "--config.method.start_up_epochs=0",
]


def run(name, *flags):
    """The command in a process of its own, from the repository's root."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("XLA_FLAGS", None)  # one device, as people have
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def succeeded(done):
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "tiny"


@pytest.fixture(scope="module")
def trained(workdir):
    """What the pretraining command printed; its run is in `workdir`."""
    return run("pretrain", CONFIG, f"--workdir={workdir}", *TINY)


@pytest.mark.slow
def test_pretraining_trains_and_says_what_it_did(trained, workdir):
    out = succeeded(trained)
    assert re.fullmatch(
        rf"The run in {workdir} is complete: 2 epochs, \d+ s, [\d,]+ images/s\.\n", out
    )
    last = r"^epoch 2 of 2: loss \d+\.\d{3}, kNN [\d.]+%, [\d,]+ images/s$"
    assert re.search(last, trained.stderr, re.MULTILINE)
    files = Workdir(workdir)
    assert [row["epoch"] for row in files.read_metrics()] == [1, 2]
    assert files.read_config()["encoder"]["width"] == 4


@pytest.mark.slow
def test_pretraining_again_finds_the_run_complete(trained, workdir):
    before = snapshot(workdir)
    again = run("pretrain", CONFIG, f"--workdir={workdir}", *TINY)
    assert succeeded(again) == trained.stdout
    assert snapshot(workdir) == before


@pytest.mark.slow
def test_knn_judges_the_run(trained, workdir):
    out = succeeded(run("knn", f"--workdir={workdir}", "--k", "1", "20"))
    found = json.loads((workdir / "knn.json").read_text())
    assert found["step"] == 10
    assert [(row["k"], row["temperature"]) for row in found["results"]] == [
        (1, 0.2),
        (20, 0.2),
    ]
    assert out == "".join(
        f"kNN, k {row['k']}, temperature 0.2: {row['accuracy']:.2%} of 40 held-out "
        "images\n"
        for row in found["results"]
    )
    # The monitor of the training judged the same encoder in the same way.
    last = Workdir(workdir).read_metrics()[-1]
    assert last["knn"] == pytest.approx(found["results"][1]["accuracy"])


@pytest.mark.slow
def test_the_linear_probe_judges_the_run(trained, workdir):
    out = succeeded(run("linear_probe", f"--workdir={workdir}", "--l2=0.01"))
    found = json.loads((workdir / "linear_probe.json").read_text())
    assert (found["step"], found["l2"]) == (10, 0.01)
    low, high = found["interval"]
    assert out == (
        f"Linear probe, L2 0.01: {found['accuracy']:.2%} of 40 held-out images (95% "
        f"interval {low:.2%} to {high:.2%}), top-5 {found['top5']:.2%}\n"
        f"{found['train_accuracy']:.2%} of the training images\n"
    )
    assert 0 < found["train_accuracy"] <= 1


@pytest.mark.slow
@pytest.fixture
def no_extras(monkeypatch, tmp_path):
    """A process of its own finds none of the packages of the extra ``data``."""
    for module in ("cv2", "grain"):
        missing = f"raise ModuleNotFoundError(name={module!r})"
        (tmp_path / f"{module}.py").write_text(missing)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_the_demo_evaluates_draws_and_prints_one_table(trained, workdir, no_extras):
    out = succeeded(run("demo", CONFIG, f"--workdir={workdir}", *TINY))
    found = json.loads((workdir / "demo.json").read_text())
    figures = {"knn", "linear", "few_shot_mean", "few_shot_std"}
    assert {key: set(row) for key, row in found.items() if isinstance(row, dict)} == {
        "pretrained": figures,
        "random_encoder": figures,
        "raw_pixels": figures,
    }
    numbers = {key for key, value in found.items() if isinstance(value, int | float)}
    assert numbers == {"pretrain_seconds", "images_per_second", "peak_memory_bytes"}
    assert len(found) == 6
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
    assert "Handwritten digits, 40 held out:" in out
    assert f"2 epochs in {found['pretrain_seconds']:.0f} s" in out
    for figure in ("learning_curves", "bank_use", "embedding_map"):
        image = (workdir / f"{figure}.png").read_bytes()
        assert image.startswith(b"\x89PNG")
        assert len(image) > 5000


@pytest.mark.slow
def test_a_mistake_is_one_line_on_stderr_and_status_2(workdir):
    done = run("pretrain", "--config=none.py", f"--workdir={workdir}-none")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --config: want the path of a recipe, or one")
    assert done.stderr.endswith("; got none.py: no such file\n")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a command in this process: its status, what it printed, what on stderr."""

    def call(name, *flags):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [f"experiments.{name}", *flags])
        with pytest.raises(SystemExit) as caught:
            command.run(MAINS[name])
        return caught.value.code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("name", list(MAINS))
def test_help_is_given(call, name):
    status, out, err = call(name, "--help")
    assert (status, err) == (0, "")
    assert "usage: " in out
    assert "--workdir" in out
    assert MAINS[name].__globals__["__doc__"].split(".")[0][:30] in out


def one_line(result):
    """The message of a mistake, without its prefix."""
    status, out, err = result
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").rstrip("\n")


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
            "config.optimizer.learning_rate: want float, got 'fast'",
        ),
        (
            ["--config.training.batch_size=1352"],
            "config.training.batch_size: want at most 1347, the training images of "
            "digits, got 1352",
        ),
        (
            ["--config.method.bank_size=1"],
            "config.method.bank_size: want a number in [2, inf), got 1",
        ),
        (
            ["--config.method.temperature=-0.1"],
            "config.method.temperature: want a number in (0, inf), got -0.1",
        ),
        (
            ["--config.data.source=cifar"],
            "config.data.source: want one of digits, fake",
        ),
        (
            ["--config.encoder.projector_widths=(8, 4)"],
            "config.encoder.projector_widths: want (hidden, hidden, dim) for the caco "
            "projector, got (8, 4)",
        ),
        (["--config.seed", "3"], "unrecognized arguments: 3; see --help"),
        (["--config.seed"], "--config.seed: want --config.seed=VALUE"),
        (["--confg=x"], "unrecognized arguments: --confg=x; see --help"),
        (["--config=configs"], "--config: want the path of a recipe, or one of "),
    ],
)
def test_an_impossible_configuration_touches_nothing(
    call, tmp_path, name, flags, message
):
    workdir = tmp_path / "run"
    assert one_line(call(name, CONFIG, f"--workdir={workdir}", *flags)).startswith(
        message
    )
    assert not workdir.exists()


@pytest.mark.parametrize("name", ["pretrain", "demo"])
def test_a_directory_that_cannot_be_written_is_named(call, tmp_path, name):
    (tmp_path / "file").write_text("")
    workdir = tmp_path / "file" / "run"
    assert one_line(call(name, CONFIG, f"--workdir={workdir}", *TINY)) == (
        f"--workdir: cannot write to {workdir}: Not a directory; name a directory that "
        "you may write to"
    )


@pytest.mark.parametrize("name", ["pretrain", "demo"])
def test_a_run_of_another_configuration_is_left_alone(call, tmp_path, name):
    files = Workdir(tmp_path / "run")
    files.claim({"seed": 5, "method": {"name": "caco"}})
    before = snapshot(files.path)
    message = one_line(call(name, CONFIG, f"--workdir={files.path}", *TINY))
    assert message.startswith(f"--workdir: {files.path} holds a run of another config")
    assert "seed (5 there, 0 asked for)" in message
    assert "encoder.width (64 there, 4 asked for)" in message
    assert message.endswith("or --force_new to start over (the old run is moved aside)")
    assert snapshot(files.path) == before


def test_what_must_be_given_is_asked_for(call):
    message = "the following arguments are required: --config, --workdir; see --help"
    assert one_line(call("pretrain")) == message
    for name in ("knn", "linear_probe"):
        message = "the following arguments are required: --workdir; see --help"
        assert one_line(call(name)) == message


@pytest.mark.parametrize("name", ["knn", "linear_probe"])
def test_a_directory_without_a_run_says_what_to_do_first(call, tmp_path, name):
    for path in (tmp_path, tmp_path / "none"):
        assert one_line(call(name, f"--workdir={path}")) == (
            f"--workdir: want the directory of a run, got {path}: it has no "
            "config.json; run experiments.pretrain first"
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
def test_an_evaluation_takes_no_flags_but_its_own(call, tmp_path, name, flags, message):
    assert one_line(call(name, f"--workdir={tmp_path}", *flags)).startswith(message)


@pytest.fixture(scope="module")
def tiny_parts(devices):
    """The tiny encoder on one device, for commands in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "make_encoder", lambda *_, **__: tiny.TinyEncoder())
        patch.setattr(assemble, "make_mesh", lambda: make_mesh(devices[:1]))
        yield


@pytest.fixture(scope="module")
def tiny_run(tiny_parts, tmp_path_factory):
    """A run of the tiny encoder that was saved before its first step."""
    files = Workdir(tmp_path_factory.mktemp("tiny"))
    experiment = assemble.assemble(tiny.config())
    files.claim(config_values(experiment))
    with Checkpoints(files) as checkpoints:
        checkpoints.save(assemble.initial_state(experiment))
    return files.path


@pytest.mark.parametrize(
    "name, flags, message",
    [
        ("knn", ["--k", "0"], "--k, --temperature: k: want "),
        ("knn", ["--k", "5", "49"], "--k, --temperature: k: want "),
        ("knn", ["--temperature=-1"], "--k, --temperature: temperature: want "),
        ("linear_probe", ["--l2=-1"], "--l2: l2: want "),
        ("linear_probe", ["--l2=nan"], "--l2: l2: want "),
    ],
)
def test_an_impossible_evaluation_writes_nothing(call, tiny_run, name, flags, message):
    before = {path.name for path in tiny_run.iterdir()}
    assert one_line(call(name, f"--workdir={tiny_run}", *flags)).startswith(message)
    assert {path.name for path in tiny_run.iterdir()} == before


def test_a_run_that_diverges_stops_with_status_1_and_says_where(
    call, tiny_parts, tmp_path
):
    workdir = tmp_path / "run"
    status, out, err = call(
        "pretrain",
        CONFIG,
        f"--workdir={workdir}",
        *TINY,
        "--config.optimizer.learning_rate=1e30",
    )
    assert (status, out) == (1, "")
    assert re.fullmatch(
        r"stopped: step \d+: .*encoder no longer finite; nothing was saved yet\. "
        r"Lower the learning rate or raise the temperature",
        err.splitlines()[-1],
    )
    assert "Traceback" not in err
    assert Workdir(workdir).read_metrics() == []


def test_force_new_and_fresh_start_over(call, monkeypatch):
    asked = []

    def record(config, workdir, *, force_new, **_):
        asked.append((workdir, force_new))
        sys.exit(0)

    for module in (pretrain, demo):
        monkeypatch.setattr(module, "pretrain", record)
    for name, flag in [
        ("pretrain", "--force_new"),
        ("demo", "--fresh"),
        ("demo", "--force_new"),
    ]:
        call(name, CONFIG, "--workdir=x", flag)
        call(name, CONFIG, "--workdir=x")
    assert asked == [("x", True), ("x", False)] * 3


def test_the_demos_own_recipe_and_place_are_the_defaults(call, monkeypatch):
    asked = []
    monkeypatch.setattr(
        demo,
        "pretrain",
        lambda config, workdir, **_: asked.append((config, workdir)) or sys.exit(0),
    )
    call("demo")
    expected = command.read_config("configs/caco_digits.py", [])
    assert asked == [(expected, "runs/caco_digits")]
