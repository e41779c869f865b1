"""The examples use public names alone, and run from an installed wheel."""

import ast
import importlib
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import caco_jax

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAID = {
    "learned_temperature": "epoch 5: temperature",
    "own_digits": "kNN: 9",
    "signals": "kNN on held-out signals: 9",
    "table": "kNN on held-out rows: 9",
}


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
    assert len(source.splitlines()) <= 110
    for module, name in imported_names(source):
        if not module.startswith("caco_jax"):
            continue
        _, _, room = module.partition(".")
        assert room == "" or room in caco_jax.__all__, module
        assert name is None or name in importlib.import_module(module).__all__


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs words of a shell with the wheel installed, in a directory of examples."""
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
    shutil.copytree(ROOT / "examples", here)

    def run(*words):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=here,
            env={**os.environ, "PYTHONPATH": str(site), "XLA_FLAGS": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run, site


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SAID))
def test_an_example_runs_as_its_first_lines_say(installed, name):
    run, _ = installed
    assert SAID[name] in run(f"{name}.py").stdout


@pytest.mark.slow
def test_the_command_lines_example_runs_as_its_first_lines_say(installed):
    run, site = installed
    docstring = ast.get_docstring(
        ast.parse((ROOT / "examples/own_parts.py").read_text())
    )
    lines = docstring.replace("\\\n", " ").splitlines()
    commands = [line.split() for line in lines if line.startswith("    caco ")]
    assert len(commands) == 2
    for _, *words in commands:
        done = run(str(site / "bin" / "caco"), *words)
    assert "of 50 held-out images" in done.stdout
