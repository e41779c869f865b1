"""Streams: the same pixels from any workers, hosts and first step; bad images."""

import functools
import logging
import multiprocessing
import threading
import time
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caco_jax.data import pipeline
from caco_jax.data.decode import CropSpec, center_crop, random_resized_crops
from caco_jax.data.pipeline import Bad, BadImages, CenterSource, CropSource
from caco_jax.data.records import FolderRecords
from caco_jax.data.workers import stream
from tests.data.pictures import picture_records

# One worker runs them all: they share the pictures and what was made of them.
pytestmark = pytest.mark.xdist_group("pipeline")

SPECS = [
    CropSpec(8, (0.2, 1.0), (3 / 4, 4 / 3)),
    CropSpec(5, (0.1, 0.4), (3 / 4, 4 / 3)),
]
COUNT, BROKEN = 20, 7
MIDDLE = functools.partial(center_crop, size_pixels=6)
SEED = (3, 2**32 - 1)
SHAPE = {"seed": SEED, "batch_size": 6, "steps": 3}
STEPS = 6  # two epochs
IN_PARTS = SHAPE | {"part_rows": 4}  # uneven ones


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def records(folder):
    return picture_records(folder, COUNT, broken=[BROKEN])


def lenient():
    return BadImages("pictures", count=COUNT, share=1.0)


def steps_of(source, *, workers=0, first=0):
    """[(view 0, view 1) of each step], through a stream."""
    with stream(source, workers=workers, first=first * source.parts_per_step) as parts:
        return [
            pipeline.join_steps(parts, source.parts_per_step, steps=1, bad=lenient())
            for _ in range(first, STEPS)
        ]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for step, wanted in zip(found, expected, strict=True):
        for view, other in zip(step, wanted, strict=True):
            np.testing.assert_array_equal(view, other)


@pytest.fixture(scope="module")
def whole(records):
    """All steps, by threads."""
    return steps_of(CropSource(records, SPECS, **SHAPE))


def test_a_step_is_a_batch_of_bytes_for_each_view(whole):
    assert len(whole) == STEPS
    assert {tuple(view.shape for view in step) for step in whole} == {
        ((1, 6, 8, 8, 3), (1, 6, 5, 5, 3))
    }
    assert {view.dtype for step in whole for view in step} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_make_the_same_bytes(records, whole, workers):
    source = CropSource(records, SPECS, **IN_PARTS)
    assert source.parts_per_step == 2
    assert_same(steps_of(source, workers=workers), whole)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("first", [1, 3, 5])
def test_a_stream_begins_at_any_step(records, whole, first):
    source = CropSource(records, SPECS, **IN_PARTS)
    assert_same(steps_of(source, first=first), whole[first:])


def test_hosts_read_their_own_rows_of_the_same_batches(records, whole):
    rows = [np.array([0, 1, 4]), np.array([2, 3, 5])]
    hosts = [steps_of(CropSource(records, SPECS, **SHAPE, rows=r)) for r in rows]
    for index, expected in enumerate(whole):
        for view, wanted in enumerate(expected):
            joined = np.empty_like(wanted)
            for own, steps in zip(rows, hosts, strict=True):
                joined[:, own] = steps[index][view]
            np.testing.assert_array_equal(joined, wanted)


def test_several_steps_at_once_are_the_same_steps(records, whole):
    source = CropSource(records, SPECS, **IN_PARTS)
    with stream(source) as parts:
        count = 3 * source.parts_per_step
        found = pipeline.join_steps(parts, count, steps=3, bad=lenient())
    for view, crops in enumerate(found):
        expected = np.concatenate([step[view] for step in whole[:3]])
        np.testing.assert_array_equal(crops, expected)


def by_hand(records, place, row, epoch=0, attempt=0):
    rng = np.random.default_rng((*SEED, epoch, place, attempt))
    return random_resized_crops(rng, records[row], SPECS)


def test_examples_follow_the_epochs_order_with_generators_of_their_own(records, whole):
    order = pipeline.epoch_order(SEED, 1, COUNT)
    places = [place for place in range(6, 12) if order[place] != BROKEN]
    for place in places:
        crops = by_hand(records, place, order[place], epoch=1)
        for view, wanted in enumerate(crops):
            np.testing.assert_array_equal(whole[4][view][0, place - 6], wanted)
    assert len(places) >= 5


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.tuples(*[st.integers(0, 2**32 - 1)] * 2),
    epoch=st.integers(0, 2**20),
    count=st.integers(2, 50),
)
def test_an_order_is_a_permutation_from_seed_and_epoch_alone(seed, epoch, count):
    order = pipeline.epoch_order(seed, epoch, count)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    pipeline.epoch_order.cache_clear()
    np.testing.assert_array_equal(pipeline.epoch_order(seed, epoch, count), order)


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [
        pipeline.epoch_order(seed, epoch, 100)
        for seed in [(0, 1), (1, 0)]
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


class Stepped(NamedTuple):
    """Where the broken picture is due: its place in the epoch, and that part."""

    place: int
    part: pipeline.Crops


@pytest.fixture(scope="module")
def stepped(records):
    source = CropSource(records, SPECS, **SHAPE | {"batch_size": COUNT, "steps": 1})
    order = pipeline.epoch_order(SEED, 0, COUNT)
    (place,) = np.flatnonzero(order == BROKEN)
    return Stepped(int(place), source[0])


def test_a_broken_pictures_place_is_taken_by_the_next(records, stepped):
    expected = by_hand(records, stepped.place, BROKEN + 1, attempt=1)
    for crops, wanted in zip(stepped.part.views, expected, strict=True):
        assert len(crops) == COUNT
        np.testing.assert_array_equal(crops[stepped.place], wanted)


def test_a_broken_picture_is_told_of_by_number_and_name(folder, stepped):
    (bad,) = stepped.part.bad
    assert bad.row == BROKEN
    assert bad.reason.startswith(f"{folder}/{BROKEN}.jpg: ")


def test_a_file_that_went_away_is_a_bad_image(tmp_path):
    records = picture_records(tmp_path, 4)
    (tmp_path / "2.jpg").unlink()
    source = CropSource(records, SPECS, seed=(0,), batch_size=4, steps=1)
    (bad,) = source[0].bad
    assert bad.row == 2
    assert f"{tmp_path}/2.jpg" in bad.reason


def test_the_last_pictures_substitute_is_the_first(tmp_path):
    records = picture_records(tmp_path, 3, broken=[2])
    shape = {"seed": SEED, "batch_size": 3, "steps": 1}
    part = CropSource(records, SPECS, **shape)[0]
    (place,) = np.flatnonzero(pipeline.epoch_order(SEED, 0, 3) == 2)
    expected = by_hand(records, int(place), 0, attempt=1)
    np.testing.assert_array_equal(part.views[0][place], expected[0])


def test_bad_images_are_logged_once_and_counted_once(caplog):
    bad = BadImages("mine", count=1000, share=0.01)
    with caplog.at_level(logging.WARNING, "caco_jax"):
        for _ in range(3):
            bad.add([Bad(5, "b.jpg: truncated"), Bad(2, "a.jpg: 0 bytes")])
    assert caplog.messages == ["skipped: b.jpg: truncated", "skipped: a.jpg: 0 bytes"]
    assert len(bad) == 2
    assert bad.listing() == ["a.jpg: 0 bytes", "b.jpg: truncated"]


class SlowReason(str):
    """One that takes a while to be read, so that others come meanwhile."""

    __slots__ = ()

    def splitlines(self, keepends=False):
        time.sleep(0.02)
        return super().splitlines(keepends)


def test_a_bad_image_that_two_threads_meet_at_once_is_logged_once(caplog):
    bad = BadImages("mine", count=1000, share=0.01)
    threads = [
        threading.Thread(target=bad.add, args=([Bad(5, SlowReason("b.jpg"))],))
        for _ in range(4)
    ]
    with caplog.at_level(logging.WARNING, "caco_jax"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert caplog.messages == ["skipped: b.jpg"]


@pytest.mark.parametrize(
    "count, share, allowed",
    [
        (1, 0.0, 1),
        (50, 0.001, 5),
        (1000, 0.001, 10),
        (1_281_167, 0.001, 1281),
        (100, 0.29, 29),
        (10, 1.0, 10),
    ],
)
def test_a_share_of_the_set_may_be_bad_and_always_a_few(count, share, allowed):
    bad = BadImages("mine", count=count, share=share)
    bad.add(Bad(row, "bad") for row in range(allowed))
    with pytest.raises(
        pipeline.BadImagesError, match=f"expected at most {allowed} of the"
    ):
        bad.add([Bad(count, "bad")])


def test_too_many_bad_images_stop_with_a_list():
    bad = BadImages("folder:cats", count=30, share=0.1)
    with pytest.raises(pipeline.BadImagesError) as caught:
        bad.add(Bad(row, f"{row}.jpg: 0 bytes") for row in (9, 1, 4, 200, 30))
    assert str(caught.value) == (
        "config.data.bad_image_share: expected at most 3 of the 30 images of "
        "folder:cats unreadable (a share of 0.1), got 5 so far: 1.jpg: 0 bytes; 4.jpg: "
        "0 bytes; 9.jpg: 0 bytes; and 2 more; mend or remove them, or allow a larger "
        "share"
    )


@pytest.mark.parametrize("share, listed", [(0.1, 2), (1.0, 4)])
def test_a_stream_stops_where_too_many_are_bad(tmp_path, share, listed):
    records = picture_records(tmp_path, 4, broken=range(4))
    source = CropSource(records, SPECS, seed=(0,), batch_size=4, steps=1)
    bad = BadImages("broken", count=4, share=share)
    with stream(source) as parts, pytest.raises(pipeline.BadImagesError) as caught:
        pipeline.join_steps(parts, source.parts_per_step, steps=1, bad=bad)
    assert "broken" in str(caught.value)
    assert len(bad) >= listed


def test_evaluation_sees_every_readable_picture_once_in_order(folder, records):
    labels = np.arange(COUNT, dtype=np.int32)
    paths = [f"{index}.jpg" for index in range(COUNT)]
    labelled = FolderRecords(folder, paths, labels)
    source = CenterSource(labelled, labels, fit=MIDDLE, part_rows=8)
    with stream(source) as parts:
        parts = list(parts)
    assert [len(part.labels) for part in parts] == [7, 8, 4]
    assert [bad.row for part in parts for bad in part.bad] == [BROKEN]
    readable = np.delete(labels, BROKEN)
    names = [name for part in parts for name in part.names]
    assert names == [str(folder / paths[row]) for row in readable]
    np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), readable)
    images = np.concatenate([part.images for part in parts])
    for row, image in zip(readable, images, strict=True):
        np.testing.assert_array_equal(image, center_crop(records[row], size_pixels=6))


def test_evaluation_can_be_of_some_rows(records):
    source = CenterSource(records, np.array([1, 5, 19]), fit=MIDDLE, part_rows=2)
    images = np.concatenate([source[part].images for part in range(len(source))])
    for row, image in zip([1, 5, 19], images, strict=True):
        np.testing.assert_array_equal(image, center_crop(records[row], size_pixels=6))


def test_a_part_without_a_readable_picture_is_empty(tmp_path):
    records = picture_records(tmp_path, 2, broken=[0, 1])
    part = CenterSource(records, np.arange(2), fit=MIDDLE, part_rows=2)[0]
    assert len(part.images) == len(part.labels) == len(part.names) == 0
    assert len(part.bad) == 2


def test_the_size_of_a_part_is_that_of_its_bytes(records):
    source = CropSource(records, SPECS, seed=(0,), batch_size=6, steps=2)
    parts = [source[index] for index in range(source.parts_per_step)]
    assert source.part_bytes == max(
        sum(view.nbytes for view in part.views) for part in parts
    )
