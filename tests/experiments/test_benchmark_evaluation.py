"""The evaluations' benchmark runs, and its figures are what it timed."""

import json
import sys

import numpy as np
import pytest

from experiments.benchmarks import evaluation


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The figures of a smoke run."""
    out = tmp_path_factory.mktemp("bench") / "figures.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evaluation", "--smoke", f"--out={out}"])
        evaluation.main()
    return json.loads(out.read_text())


@pytest.mark.slow
def test_a_smoke_run_writes_its_figures(smoke):
    assert set(evaluation.PARTS) < set(smoke)
    for part, (first, second) in {
        "knn": ("ours", "scikit-learn"),
        "probe": ("ours", "scikit-learn"),
        "sweep": ("one head", "24 heads"),
    }.items():
        medians = {name: t["median"] for name, t in smoke[part]["timings"].items()}
        assert smoke[part]["ratios"]["seconds"] == medians[second] / medians[first]


@pytest.mark.slow
def test_both_sides_find_the_same(smoke):
    assert smoke["knn"]["same_place"] == 1
    found = smoke["probe"]["accuracy"]
    assert found["ours"] == pytest.approx(found["scikit-learn"], abs=0.001)


@pytest.mark.slow
def test_the_plan_for_imagenet_is_far_below_its_matrix(smoke):
    whole = evaluation.planned_bytes(**evaluation.IMAGENET)
    assert whole < 1e9 < 4 * 1_281_167 * 50_000
    assert smoke["streamed"]["imagenet_bank_bytes"] == 2 * 1_281_167 * 16


def test_growth_is_what_a_call_holds():
    held, grown = evaluation.peak_growth(lambda: np.ones(20_000_000))
    assert held.nbytes <= grown + 2**20
    _, nothing = evaluation.peak_growth(lambda: None)
    assert nothing < held.nbytes / 4
