"""A short version of the proof that no run is lost: real processes, hit for real."""

import signal

import pytest

from experiments.benchmarks import faults
from experiments.benchmarks.fault_runs import Runs, final_arrays, same_end

# One worker runs them all: they share an undisturbed run.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults")]
ONE = {"processes": 2, "methods": ["caco"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("faults"))


def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(runs):
    found = faults.hits(runs, signal.SIGKILL, 1, moments=["save"], **ONE)
    assert [case["status"] for case in found["cases"]] == [-signal.SIGKILL]
    assert (found["same_end"], found["clean"]) == (1, 1)


def test_a_run_that_is_told_to_end_saves_and_says_that_it_can_go_on(runs):
    found = faults.hits(runs, signal.SIGTERM, 1, moments=["step"], **ONE)
    assert found["cases"][0]["status"] == 75
    assert (found["saved_on_the_way"], found["same_end"], found["clean"]) == (1, 1, 1)


def test_a_damaged_checkpoint_is_passed_over(runs):
    found = faults.damages(runs, 1, **ONE)
    assert (found["fell_back_to_the_newest_good"], found["same_end"]) == (1, 1)


def test_one_other_bit_is_another_end(runs, tmp_path, monkeypatch):
    reference = runs.reference("caco")
    assert same_end(reference, reference)
    arrays = final_arrays(reference)
    spoilt = {name: array.copy() for name, array in arrays.items()}
    next(iter(spoilt.values())).reshape(-1).view("u1")[0] ^= 1
    results = iter([spoilt, arrays])
    monkeypatch.setattr(
        "experiments.benchmarks.fault_runs.final_arrays", lambda _: next(results)
    )
    assert not same_end(reference, reference)
