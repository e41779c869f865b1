"""``caco``, and the wheel that brings it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import caco_jax
from caco_jax.config.recipe import recipes
from caco_jax.programs import cache_directory, cli
from caco_jax.programs import recipes as recipes_program
from caco_jax.programs.flags import parser_of
from caco_jax.programs.parser import parse

ROOT = pathlib.Path(__file__).parents[2]
FACES = {file.stem for file in (ROOT / "experiments").glob("[!_]*.py")}


def leaves(programs):
    for found in programs.values():
        yield from leaves(found) if isinstance(found, dict) else [found]


def test_every_program_of_the_repository_has_a_door():
    assert sorted(leaves(cli.PROGRAMS)) == sorted(FACES)


@pytest.fixture
def caco(monkeypatch, capsys):
    """Runs the command; started programs are recorded, with what is left to them."""
    started = []
    monkeypatch.setattr(cli, "start", lambda name: started.append((name, *sys.argv)))

    def caco(*words):
        monkeypatch.setattr(sys, "argv", ["caco", *words])
        status = None
        try:
            cli.main()
        except SystemExit as left:
            status = left.code
        return started, status, *capsys.readouterr()

    return caco


def test_words_lead_to_a_program_and_the_rest_is_its_own(caco):
    started, *_ = caco("probe", "--workdir=runs/a", "knn")
    assert started == [("linear_probe", "caco probe", "--workdir=runs/a", "knn")]
    started, *_ = caco("analyse", "deep-linear", "--help")
    assert started[1:] == [("deep_linear_pca", "caco analyse deep-linear", "--help")]


def test_help_says_a_line_for_each(caco):
    started, status, out, err = caco("--help")
    assert (started, status, err) == ([], 0, "")
    for name in cli.PROGRAMS:
        assert f"\n    {name}" in out
    assert "Linear probe of a run" in out
    assert "alpha, bank, deep-linear, relu" in out


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "the following arguments are required: COMMAND"),
        (["analyse"], "the following arguments are required: COMMAND"),
        (["xyz"], "argument COMMAND: invalid choice: 'xyz' (choose from "),
        (["analyse", "beta"], "argument COMMAND: invalid choice: 'beta' "),
    ],
)
def test_a_mistake_is_one_line(caco, words, message):
    started, status, out, err = caco(*words)
    assert (started, status, out) == ([], 2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "word, meant",
    [
        ("pretrian", "pretrain"),
        ("prob", "probe"),
        ("linear_probe", "probe"),
        ("finetune", "fine-tune"),
        ("fewshot", "few-shot"),
        ("KNN", "knn"),
        ("analyze", "analyse"),
        ("deep-linear", "analyse deep-linear"),
        ("prepare_dataset", "prepare"),
    ],
)
def test_a_command_that_is_nearly_one_is_offered(caco, word, meant):
    started, status, _, err = caco(word, "--workdir=a")
    assert (started, status) == ([], 2)
    assert err == (
        f"error: caco: there is no command {word!r}; did you mean caco {meant}? --help "
        "shows all flags\n"
    )


def test_the_version_is_told_at_once(caco):
    _, status, out, err = caco("--version")
    assert (status, out, err) == (0, f"caco_jax {caco_jax.__version__}\n", "")


@pytest.mark.parametrize(
    "flag, meant",
    [
        ("--epochs=3", "--config.training.epochs=3"),
        ("epochs=3", "--config.training.epochs=3"),
        ("--training.epochs=3", "--config.training.epochs=3"),
        ("--training.epoch=3", "--config.training.epochs=3"),
        ("--data_dir=x", "--config.data.data_dir=x"),
        ("--bank_size=64", "--config.method.bank_size=64"),
        ("--epochs 3", "--config.training.epochs=3"),
        ("--dry-run", "--dry_run"),
        ("--work_dir=x", "--workdir"),
    ],
)
def test_a_flag_that_is_nearly_one_or_a_key_is_offered(capsys, flag, meant):
    parser = parser_of("pretrain")
    with pytest.raises(SystemExit) as left:
        parse(parser, ["--config=caco_digits", "--workdir=a", *flag.split()])
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        f"error: unrecognized arguments: {flag}; did you mean {meant}? --help shows "
        "all flags\n"
    )


@pytest.mark.parametrize("program", ["pretrain", "knn"])
def test_a_flag_that_is_near_nothing_is_just_unknown(capsys, program):
    with pytest.raises(SystemExit):
        parse(parser_of(program), ["--config=caco_digits", "--workdir=a", "--zzz=3"])
    assert capsys.readouterr().err.endswith("--zzz=3; see --help\n")


def test_a_key_without_its_value_is_one_line(capsys):
    with pytest.raises(SystemExit):
        parse(parser_of("pretrain"), ["--config.training.epochs", "3"])
    assert capsys.readouterr().err == (
        "error: --config.training.epochs: expected --config.training.epochs=VALUE; see "
        "--help\n"
    )


def test_help_names_the_recipes_and_the_page_of_keys():
    said = " ".join(parser_of("pretrain").format_help().split())
    for name in recipes():
        assert name in said
    assert "docs/reference/config.md lists all keys" in said


@pytest.mark.parametrize("program", sorted(FACES))
def test_help_speaks_of_what_an_installed_wheel_has(program):
    assert "experiments." not in parser_of(program).format_help()


@pytest.mark.parametrize("program", ["embed", "health"])
def test_help_of_what_trains_no_classifier_names_none(program):
    said = parser_of(program).format_help()
    assert "classifier" not in said and "accuracy" not in said


def test_recipes_as_json(monkeypatch, capsys):
    def listed(*words):
        monkeypatch.setattr(sys, "argv", ["caco recipes", *words, "--json"])
        recipes_program.main()
        return json.loads(capsys.readouterr().out)

    assert [row["name"] for row in listed()] == list(recipes())
    found = listed("clae_simclr_cifar10")
    assert len(found["clae_grey_levels"]) == 3
    keys = {row["key"]: row for row in found["settings"]}
    assert keys["adversarial.epsilon"].keys() == {"key", "value", "default", "source"}
    assert listed("photos:simclr")["chosen"]


def test_messages_speak_of_what_an_installed_wheel_has():
    files = [*(ROOT / "caco_jax").rglob("*.py"), *(ROOT / "configs").glob("*.py")]
    assert len(files) > 100
    for file in files:
        assert "-m experiments." not in file.read_text(), file


@pytest.mark.parametrize(
    "line, completions",
    [
        ("caco pre", ["prepare", "pretrain"]),
        ("caco analyse ", ["alpha", "bank", "deep-linear", "relu"]),
        ("caco knn --temp", ["--temperature"]),
    ],
)
def test_a_shell_completes(line, completions):
    done = subprocess.run(
        [sys.executable, "-c", "from caco_jax.programs.cli import main; main()"],
        cwd=ROOT,
        env={
            **os.environ,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": "/dev/stdout",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    found = {word.strip() for word in done.stdout.splitlines()} - {"-h", "--help"}
    assert sorted(found) == completions, done.stderr


def test_compiled_programs_are_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "caco_jax" / "xla"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == pathlib.Path.home() / ".cache" / "caco_jax" / "xla"


@pytest.mark.slow
def test_the_wheel_is_whole_and_works_from_an_empty_directory(tmp_path):
    source, site, empty = (tmp_path / name for name in ("source", "site", "empty"))
    for folder in ("caco_jax", "configs"):
        no_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=no_caches)
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True)

    names = {path.name for path in site.iterdir()} - {"bin"}
    assert {name for name in names if not name.endswith(".dist-info")} == {"caco_jax"}
    here = {file.relative_to(ROOT) for file in (ROOT / "caco_jax").rglob("*.*")}
    for file in here:
        if "__pycache__" not in file.parts:
            assert (site / file).exists(), f"{file} is not in the wheel"

    def run(*words):
        return subprocess.run(
            [sys.executable, str(site / "bin" / "caco"), *words],
            cwd=empty,
            env={**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("pretrain", "--config=caco_digits:smoke", "--workdir=run")
    assert done.returncode == 0, done.stderr
    assert "The run in run is complete" in done.stdout
    done = run("knn", "--workdir=run", "--k=3")
    assert done.returncode == 0, done.stderr
    done = run("pretrain", "--config=nothing", "--workdir=other")
    assert done.returncode == 2
    assert ", caco_digits, " in done.stderr
