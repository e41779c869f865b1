"""The page as text, and the command that writes it."""

import json
import re
import sys

import pytest

from caco_jax.programs import command, report
from caco_jax.report.page import embedded, render
from tests.report.conftest import HOSTILE

pytestmark = pytest.mark.xdist_group("report")


@pytest.mark.parametrize("text", [HOSTILE, "<!--", "&amp;", "\u2028", "@@DATA@@", '"'])
def test_embedded_json_opens_no_tag_and_comes_back(text):
    found = embedded({"a": [text]})
    assert not set(found) & set("<>&\u2028\u2029")
    assert json.loads(found) == {"a": [text]}


def test_a_page_holds_all_that_was_found(hostile_values):
    page = render(hostile_values)
    (data,) = re.findall(r'id="data">(.*?)</script>', page)
    assert json.loads(data) == hostile_values
    assert page.count("</script>") == 2
    assert "alert(1)</" not in page
    assert hostile_values["classes"][0] == HOSTILE


def test_marks_in_what_is_shown_stay_text(hostile_values):
    run = hostile_values["run"] | {"name": "@@SCRIPT@@<b>"}
    page = render(hostile_values | {"run": run})
    assert "<title>@@SCRIPT@@&lt;b&gt;: report</title>" in page
    assert page.count("</script>") == 2


def test_a_page_asks_nobody_for_anything(hostile_values):
    page = render(hostile_values)
    assert "default-src 'none'" in page
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page) == []
    assert "@import" not in page
    assert "Permission is hereby granted" in page  # the licence of what it brings


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*flags):
        monkeypatch.setattr(sys, "argv", ["experiments.report", *map(str, flags)])
        status = 0
        try:
            command.run(report.main)
        except SystemExit as left:
            status = left.code
        return status, *capsys.readouterr()

    return call


def test_the_command_writes_a_page(call, workdir, tmp_path):
    out = tmp_path / "page.html"
    status, printed, _ = call(f"--workdir={workdir}", f"--out={out}")
    assert status == 0
    assert re.fullmatch(rf"{out}: 0\.\d MB; open it in a browser\n", printed)
    assert out.read_text().startswith("<!doctype html>")


def test_mistakes_are_one_line_and_write_nothing(call, workdir, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.json").write_text((workdir / "config.json").read_text())
    for flags, message in {
        (
            f"--workdir={empty}",
        ): f"--workdir: expected the directory of a run, got {empty}",
        (
            f"--workdir={begun}",
        ): f"--workdir: expected a run with a checkpoint, got {begun}",
        (
            f"--workdir={workdir}",
            f"--compare={empty}",
        ): f"--compare: expected directories of runs, got {empty}",
        (
            f"--workdir={workdir}",
            f"--out={tmp_path}/no/page.html",
        ): "--out: expected a file in a directory that exists",
    }.items():
        status, printed, told = call(*flags)
        assert (status, printed) == (2, "")
        assert told.startswith(f"error: {message}")
        assert told.count("\n") == 1
    assert not list(tmp_path.glob("**/*.html"))
