"""Paths as people write them."""

import argparse
import pathlib

import pytest

from caco_jax._paths import local_path
from caco_jax.data import sources
from caco_jax.programs.flags import parser_of
from caco_jax.runs.workdir import Workdir
from caco_jax.schema import UserError

HOME = pathlib.Path.home()


@pytest.mark.parametrize(
    "text, path",
    [
        ("runs/mine", "runs/mine"),
        ("/data/set", "/data/set"),
        ("~/runs", HOME / "runs"),
        ("~nobody-of-this-name/runs", "~nobody-of-this-name/runs"),
        ("runs/~", "runs/~"),
        ("file:///data/a%20set", "/data/a set"),
        ("FILE://localhost/data", "/data"),
        (pathlib.Path("file:///data"), "/data"),
        ("lr:0.1/seed:2", "lr:0.1/seed:2"),
        ("lr:/x", "lr:/x"),
        ("c:/x", "c:/x"),
        ("", "."),
    ],
)
def test_what_is_of_this_machine_is_a_path(text, path):
    assert local_path(text) == pathlib.Path(path)


@pytest.mark.parametrize(
    "text, scheme",
    [
        ("gs://bucket/run", "gs"),
        ("s3://bucket", "s3"),
        ("GS://bucket/run", "gs"),
        (pathlib.Path("gs://bucket/run"), "gs"),
        ("https://host/set.tar", "https"),
        ("dbfs:/mnt/x", "dbfs"),
        ("my-store+x://a", "my-store+x"),
    ],
)
def test_what_is_elsewhere_is_refused(text, scheme):
    with pytest.raises(ValueError) as caught:
        local_path(text)
    assert str(caught.value) == (
        f"expected a path of this machine, got {text}: {scheme}:// cannot be read or "
        "written here; mount it or copy it, and name that folder"
    )


@pytest.mark.parametrize("text", ["file://", "file://host/data", "file://data"])
def test_a_file_of_another_host_is_refused(text):
    with pytest.raises(ValueError, match=f"^expected file:///PATH, got {text}$"):
        local_path(text)


def test_no_folder_of_that_name_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = r"expected a path of this machine, got gs://bucket/run: "
    with pytest.raises(
        UserError, match=r"^--workdir: expected a path of this machine, "
    ):
        Workdir("s3://bucket/run").claim({})
    with pytest.raises(ValueError, match=f"^data.source: {elsewhere}"):
        sources.load("folder:gs://bucket/run")
    with pytest.raises(ValueError, match=f"^data.data_dir: {elsewhere}"):
        sources.load("folder:x", data_dir="gs://bucket/run")
    assert not list(tmp_path.iterdir())


def test_a_file_address_names_a_directory(tmp_path):
    assert Workdir(f"file://{tmp_path}/a%20run").path == tmp_path / "a run"
    with pytest.raises(ValueError, match=str(tmp_path / "none")):
        sources.load(f"folder:file://{tmp_path}/none")


def path_flags(parser):
    """(its own parser, flag) of all that a command reads from or writes to."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from path_flags(below)
        for name in ("workdir", "data_dir", "manual_dir", "out", "file", "pairs"):
            if action.dest == name:
                yield parser, f"--{name}"


@pytest.mark.parametrize(
    "program", ["pretrain", "demo", "knn", "convert", "prepare_dataset", "report"]
)
def test_every_flag_of_a_path_refuses_what_is_elsewhere(program, capsys):
    found = list(path_flags(parser_of(program)))
    assert found
    for parser, flag in found:
        scheme = "s3" if flag == "--workdir" and program != "demo" else "gs"
        with pytest.raises(SystemExit) as left:
            parser.parse_args([f"{flag}={scheme}://bucket/x"])
        assert left.value.code == 2
        assert capsys.readouterr().err.startswith(
            f"error: argument {flag}: expected a path of this machine, got {scheme}://"
        )


@pytest.mark.parametrize("program", ["demo", "alpha_gradients", "bank_dynamics"])
def test_programs_that_draw_figures_want_a_directory_of_this_machine(program, capsys):
    with pytest.raises(SystemExit):
        parser_of(program).parse_args(["--workdir=gs://bucket/x"])
    assert "--workdir: expected a path of this machine, got gs:" in (
        capsys.readouterr().err
    )
