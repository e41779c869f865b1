"""The bank benchmark runs, and both of its sides take the same step."""

import sys

import jax
import numpy as np
import pytest

from experiments.benchmarks import bank, timing
from tests.experiments.smoke import smoke


@pytest.mark.slow
def test_smoke_run_writes_its_figures(tmp_path):
    figures, printed = smoke("bank", tmp_path / "figures.json")
    assert "temporary memory of ours" in printed
    assert figures["seconds"]["ours"]["median"] > 0
    assert figures["temporary_bytes"] > 0
    assert [row["entries"] for row in figures["growth"]] == [256, 512, 1024]
    assert figures["machine"]["versions"]["jax"] == jax.__version__
    has_torch = timing.version("torch") is not None
    assert ("torch_over_ours" in figures) == has_torch
    assert ("PyTorch is not installed" in printed) != has_torch


@pytest.mark.slow
def test_both_sides_take_the_same_steps():
    pytest.importorskip("torch", reason="compares with PyTorch")
    arrays = bank.random_arrays(6, 40, 8)
    ours, _ = bank.compiled_step(arrays, 0.2, 0.1)
    theirs = bank.torch_step(arrays, 0.2, 0.1)
    for _ in range(3):
        _, loss, descent = ours()
        torch_loss, torch_descent = theirs()
        np.testing.assert_allclose(loss, torch_loss, rtol=1e-5)
        np.testing.assert_allclose(descent, torch_descent, rtol=1e-4, atol=1e-6)


def test_candidates_alternate():
    order = []
    timings = timing.alternate(
        {name: lambda name=name: order.append(name) for name in "ab"},
        runs=2,
        pause_seconds=0.0,
    )
    assert order == list("ababab")  # one untimed run of each, then two
    assert timings["a"].runs == 2
    assert timings["b"].fastest <= timings["b"].median <= timings["b"].slowest


def test_counts_below_one_are_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bank", "--queries=0"])
    with pytest.raises(SystemExit) as stopped:
        bank.main()
    assert stopped.value.code != 0
    assert "expected a number above 0, got 0" in capsys.readouterr().err
