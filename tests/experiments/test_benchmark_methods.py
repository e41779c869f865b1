"""The benchmark of the methods: its budgets, its table, its resumption."""

import json
import sys

import numpy as np
import pytest

from caco_jax.schema import UserError
from experiments.benchmarks import methods

TINY = ["--config.encoder.width=4", "--config.encoder.projector_widths=(8,8,8)"]


def run(monkeypatch, out, *arguments):
    flags = [*arguments, f"--out={out}"]
    monkeypatch.setattr(sys, "argv", ["methods", *flags])
    methods.main()


def test_a_start_up_counts_among_the_epochs():
    with_bank = methods.budget_settings(120, starts_up=True, has_bank=True)
    assert {"training.epochs=90", "method.start_up_epochs=30"} <= set(with_bank)
    assert {"optimizer.warmup_epochs=5", "bank_optimizer.warmup_epochs=5"} <= set(
        with_bank
    )
    without = methods.budget_settings(15, starts_up=False, has_bank=False)
    assert {"training.epochs=15", "optimizer.warmup_epochs=3"} <= set(without)
    assert not any("start_up" in one or "bank" in one for one in without)


def test_the_table_has_means_and_deviations_over_seeds_in_per_cent():
    rows = [
        {
            "contender": "simclr:clae",
            "epochs": 15,
            "knn": knn,
            "linear": 0.5,
            "few_shot_mean": 0.25,
        }
        for knn in (0.9, 0.92, 0.94)
    ]
    last = methods.table(rows).splitlines()[-1]
    deviation = np.std([90, 92, 94], ddof=1)
    assert last == (
        f"| simclr + clae | 15 | 92.0 ± {deviation:.1f} | 50.0 ± 0.0 | 25.0 ± 0.0 |"
    )


@pytest.mark.slow
def test_a_stopped_benchmark_goes_on_and_measures_the_same(monkeypatch, tmp_path):
    out = tmp_path / "methods.json"
    flags = ["--methods", "plain", "--budgets", "1", "--seeds", "3", *TINY]
    run(monkeypatch, out, *flags)
    first = json.loads(out.read_text())
    (row,) = first["rows"]
    assert (row["contender"], row["epochs"], row["seed"]) == ("plain", 1, 3)
    assert first["changed"] == [flag.removeprefix("--config.") for flag in TINY]
    saved = out.with_suffix("") / "plain" / "1_3" / "checkpoints"
    before = {file: file.stat().st_mtime_ns for file in saved.rglob("*")}
    run(monkeypatch, out, *flags)
    assert json.loads(out.read_text())["rows"] == first["rows"]
    assert before == {file: file.stat().st_mtime_ns for file in saved.rglob("*")}


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--methods", "simsiam"], "--methods: expected some of caco, caco:clae, "),
        (["--budgets", "0"], "--budgets: expected epochs >= 1, got [0]"),
    ],
)
def test_wrong_flags_are_one_line(monkeypatch, tmp_path, flags, message):
    with pytest.raises(UserError) as caught:
        run(monkeypatch, tmp_path / "x.json", *flags)
    assert str(caught.value).startswith(message)
