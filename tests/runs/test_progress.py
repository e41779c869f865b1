"""How far a run is, through JSON and back."""

import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caco_jax.data.pipeline import BadImages
from caco_jax.runs.machine import machine
from caco_jax.runs.progress import RunProgress, provenance


def through_json(progress):
    return RunProgress.from_json(json.loads(json.dumps(progress.as_json())))


@settings(derandomize=True, max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=6),
    seconds=st.floats(0, 1e9),
    skipped=st.integers(0, 5),
)
def test_progress_comes_back_bit_by_bit(values, seconds, skipped):
    progress = RunProgress(epoch_steps=6, rows=[{"epoch": 1, "loss": 0.1 + 0.2}])
    progress.add({"loss": np.asarray(values, np.float32)})
    progress.add({"loss": np.asarray([0.5], np.float32), "skipped": np.asarray([1])})
    progress.throughput.seconds, progress.throughput.skipped = seconds, skipped
    progress.bad_images = {3: "no image"}
    again = through_json(progress)
    assert again.rows == progress.rows
    assert again.bad_images == progress.bad_images
    assert vars(again.throughput) == vars(progress.throughput)
    for name, expected in progress.begun.items():
        assert again.begun[name].dtype == expected.dtype
        # NaNs of any payload are one NaN.
        np.testing.assert_array_equal(again.begun[name], expected)


def test_an_epoch_waits_for_its_line_once_all_its_steps_are_there():
    progress = RunProgress(epoch_steps=3)
    assert not progress.is_waiting()
    progress.add({"loss": np.ones(2)})
    assert not progress.is_waiting()
    progress.add({"loss": np.ones(1)})
    assert progress.is_waiting()
    progress.finish_epoch({"epoch": 1, "step": 3})
    assert not progress.is_waiting()
    assert progress.begun == {}
    assert not RunProgress().is_waiting()


@pytest.mark.parametrize(
    "accuracies, best",
    [
        ([0.5], True),
        ([0.0], True),
        ([None], False),
        ([0.5, 0.6], True),
        ([0.5, 0.5], False),
        ([0.5, None, 0.4], False),
        ([0.5, None], False),
        ([None, 0.1], True),
    ],
)
def test_the_best_is_above_all_before_it(accuracies, best):
    rows = [{} if value is None else {"knn": value} for value in accuracies]
    assert RunProgress(rows=rows).is_best() == best


def test_the_summary_is_of_all_processes_so_far():
    progress = RunProgress(rows=[{"epoch": 2, "step": 6}])
    progress.throughput.seconds, progress.throughput.images = 4.0, 96
    progress.peak_memory_bytes = 2**50
    bad = BadImages("set", count=10, share=1.0)
    bad.reasons[4] = "no image"
    progress.note_process(bad)
    progress.provenance = provenance({})
    assert progress.summary() == {
        "epochs": 2,
        "steps": 6,
        "images": 96,
        "pretrain_seconds": 4.0,
        "images_per_second": 24.0,
        "peak_memory_bytes": 2**50,
        "bad_images": 1,
        "machine": machine(),
    }
    assert RunProgress().summary()["machine"] == "an unknown machine"  # of 0.1
    assert RunProgress().summary()["steps"] == 0
    assert not math.isnan(RunProgress().summary()["images_per_second"])


def test_provenance_tells_configurations_and_versions_apart():
    one, other = provenance({"seed": 0}), provenance({"seed": 1})
    assert one["config"] == {"seed": 0}
    assert one["config_sha256"] != other["config_sha256"]
    assert one["versions"]["jax"] == jax.__version__
    assert len(one["devices"]) == 8
