"""The examples use public names alone, and run from an installed wheel."""

import ast
import importlib
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

import pytest

import caco_jax

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# What each says first, with the figure that a person would look for.
SAID = {
    "own_loop": r"Held-out digits by their nearest neighbours:\n  9\d\.\d% trained",
    "own_player": r"Held-out digits by their nearest neighbours:\n  backbone: 9\d",
    "sensors": r"The state of a machine .*:\n  backbone: (9\d|100)\.",
    "tabular": r"The diagnosis of a tumour .*:\n  backbone: 9\d\.",
}
LONG = {"vit_fashion": r"Garments that were not seen, by their nearest neighbours:\n"}


def imported_names(source):
    """(module, name) of every import of ours."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("caco_jax"):
            yield from ((node.module, alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_are_short_and_use_public_names(file):
    source = file.read_text()
    assert len(source.splitlines()) < 80
    for module, name in imported_names(source):
        if not module.startswith("caco_jax"):
            continue
        _, _, room = module.partition(".")
        assert room == "" or room in caco_jax.__all__, module
        assert name is None or name in importlib.import_module(module).__all__


@pytest.mark.parametrize(
    "name",
    [*SAID, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)],
)
def test_an_example_runs_at_a_small_size(monkeypatch, tmp_path, capsys, name):
    file = ROOT / "examples" / f"{name}.py"
    command = f"    python examples/{name}.py\n"
    assert command in ast.get_docstring(ast.parse(file.read_text())) + "\n"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(file), "--smoke"])
    runpy.run_path(str(file), run_name="__main__")
    first, *_ = {**SAID, **LONG}[name].partition(r"\n")
    assert re.match(first, capsys.readouterr().out)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs words of a shell with the wheel installed, beside a copy of examples/."""
    base = tmp_path_factory.mktemp("installed")
    source, site, here = (base / name for name in ("source", "site", "here"))
    for folder in ("caco_jax", "configs"):
        shutil.copytree(
            ROOT / folder,
            source / folder,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True)
    shutil.copytree(ROOT / "examples", here / "examples")

    def run(*words, folder=here):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(site), "XLA_FLAGS": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run, site, here / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SAID))
def test_an_example_runs_as_its_first_lines_say(installed, name):
    run, _, _ = installed
    assert re.match(SAID[name], run(f"examples/{name}.py").stdout)


@pytest.mark.slow
def test_the_command_lines_example_runs_as_its_first_lines_say(installed):
    run, site, here = installed
    docstring = ast.get_docstring(
        ast.parse((ROOT / "examples/own_parts.py").read_text())
    )
    lines = docstring.replace("\\\n", " ").splitlines()
    commands = [line.split() for line in lines if line.startswith("    caco ")]
    assert len(commands) == 2
    for _, *words in commands:
        done = run(str(site / "bin" / "caco"), *words, folder=here)
    assert "of 50 held-out images" in done.stdout
