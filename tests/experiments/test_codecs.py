"""What a terminal's codec does not know is printed all the same."""

import io
import json
import sys

import pytest

from caco_jax.programs import few_shot
from caco_jax.programs.flags import parser_of
from tests.experiments.commands import call

pytestmark = pytest.mark.xdist_group("commands")


@pytest.mark.parametrize("codec", ["ascii", "latin-1", "cp1252"])
def test_help_is_printed_on_any_terminal(monkeypatch, codec):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=codec)
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit) as left:
        parser_of("alpha_gradients").parse_args(["--help"])
    assert left.value.code == 0
    terminal.flush()
    assert r"\u03b1" in terminal.buffer.getvalue().decode(codec)


def test_figures_are_saved_before_they_are_printed(trained, monkeypatch):
    """Whatever happens to who reads them."""

    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    def call_it():
        monkeypatch.setattr(sys, "stdout", Gone())
        few_shot.main()

    (trained.workdir / "few_shot.json").unlink(missing_ok=True)
    with pytest.raises(BrokenPipeError):
        call(call_it, f"--workdir={trained.workdir}", "--shots", "2", "--seeds=2")
    found = json.loads((trained.workdir / "few_shot.json").read_text())
    assert found["results"][0]["shots"] == 2
