"""Feeds: their orders, their dispatches, and that a stream is the same everywhere."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caco_jax.data.pipeline import BadImages
from caco_jax.data.view_kinds import PhotoView, Views
from caco_jax.runs import fit
from caco_jax.training import feeds, loop
from caco_jax.training.sharding import local_rows, make_mesh, rows
from tests.data.pictures import picture_records
from tests.runs import tiny
from tests.training.test_step import assert_trees_close, assert_trees_equal

# One worker runs them all: they share what was trained.
pytestmark = pytest.mark.xdist_group("feeds")

KEY = jax.random.key(5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    epoch=st.integers(0, 2**20), steps=st.integers(1, 4), batch_size=st.integers(1, 6)
)
def test_an_epochs_order_draws_no_row_twice(epoch, steps, batch_size):
    order = feeds.epoch_order(KEY, epoch, count=24, steps=steps, batch_size=batch_size)
    assert order.shape == (steps, batch_size)
    assert len(set(order.flat)) == order.size
    assert set(order.flat) <= set(range(24))


def test_an_order_is_a_permutation_from_key_and_epoch_alone():
    def order(key, epoch, steps=4):
        return feeds.epoch_order(key, epoch, count=24, steps=steps, batch_size=6)

    first = order(KEY, 3)
    assert sorted(first.flat) == list(range(24))
    np.testing.assert_array_equal(first, order(KEY, 3))
    np.testing.assert_array_equal(first[:2], order(KEY, 3, steps=2))
    others = [order(KEY, 4), order(jax.random.key(6), 3)]
    assert not any(np.array_equal(first, other) for other in others)


@settings(deadline=None, derandomize=True)
@given(steps=st.integers(1, 200), at_most=st.integers(1, 200))
def test_dispatches_are_as_large_as_may_be_and_all_equal(steps, at_most):
    size = feeds.dispatch_size(steps, at_most)
    assert steps % size == 0
    assert 1 <= size <= at_most
    assert not any(steps % larger == 0 for larger in range(size + 1, at_most + 1))


@pytest.mark.parametrize("backend, size", [("cpu", 1), ("gpu", 12), ("tpu", 12)])
def test_a_cpu_dispatches_single_steps_by_default(monkeypatch, backend, size):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert feeds.dispatch_size(36, None) == size


@settings(deadline=None, derandomize=True)
@given(first=st.integers(0, 60), length=st.integers(0, 60), size=st.integers(1, 20))
def test_spans_end_at_multiples(first, length, size):
    last = first + length
    pieces = list(feeds.spans(first, last, size))
    assert [step for piece in pieces for step in range(*piece)] == [*range(first, last)]
    assert all(0 < end - begin <= size for begin, end in pieces)
    assert all(end % size == 0 for _, end in pieces[:-1])


def resident(devices, **options):
    images = np.arange(24, dtype=np.uint8).reshape(24, 1, 1, 1)
    return feeds.resident_feeds(images, make_mesh(devices), batch_size=8, **options)


def drain(open_feed, **shape):
    """[(epoch, the inputs of its dispatches)], on the host."""
    with open_feed(KEY, **shape) as feed:
        return [
            (epoch, [jax.tree.map(np.asarray, chosen) for chosen in inputs])
            for epoch, inputs in feed.epochs
        ]


@pytest.mark.parametrize("first_step", [0, 1, 3, 4, 6])
def test_a_resident_feed_goes_on_within_an_epoch(devices, first_step):
    found = drain(resident(devices[:1]), steps=3, epochs=2, first_step=first_step)
    orders = [
        feeds.epoch_order(KEY, epoch, count=24, steps=3, batch_size=8)
        for epoch in (0, 1)
    ]
    left = [np.concatenate(orders)[first_step:][:, None]]
    assert [epoch for epoch, _ in found] == [*range(first_step // 3, 2)]
    steps = [chosen for _, inputs in found for chosen in inputs]
    np.testing.assert_array_equal(np.reshape(steps, (-1, 1, 8)), np.concatenate(left))


def test_a_first_short_dispatch_brings_the_others_back_in_line(devices):
    (_, inputs), _ = drain(
        resident(devices[:1], steps_per_dispatch=3), steps=3, epochs=2, first_step=1
    )
    assert [len(chosen) for chosen in inputs] == [2]


VIEWS = Views((PhotoView(size_pixels=8), PhotoView(size_pixels=6)))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return picture_records(tmp_path_factory.mktemp("pictures"), 24, broken=[3])


def streamed(records, devices, **options):
    bad = BadImages("pictures", count=24, share=0.1)
    options = {"batch_size": 8, "workers": 0, "bad": bad, **options}
    return feeds.streamed_feeds(records, VIEWS, make_mesh(devices), **options)


def test_a_streamed_feed_gives_crops_for_each_view_over_the_devices(records, devices):
    mesh = make_mesh(devices)
    with streamed(records, devices)(KEY, steps=3, epochs=1) as feed:
        _, inputs = next(feed.epochs)
        views = next(inputs)
    assert [view.shape for view in views] == [(1, 8, 8, 8, 3), (1, 8, 6, 6, 3)]
    assert {view.sharding for view in views} == {rows(mesh, axis=1)}
    assert feed.layout.batch(feed.fixed, views) is views


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("first_step", [0, 2, 3])
def test_a_stream_is_the_same_from_any_step_on_any_devices(
    records, devices, count, first_step
):
    whole = drain(streamed(records, devices[:1]), steps=3, epochs=2)
    found = drain(
        streamed(records, devices[:count]), steps=3, epochs=2, first_step=first_step
    )
    every = [chosen for _, inputs in whole for chosen in inputs]
    steps = [chosen for _, inputs in found for chosen in inputs]
    assert len(steps) == 6 - first_step
    assert_trees_equal(steps, every[first_step:])


def test_a_streams_dispatch_holds_one_step_unless_told(records, devices):
    one, three = (
        drain(
            streamed(records, devices[:1], steps_per_dispatch=size), steps=3, epochs=1
        )
        for size in (None, 3)
    )
    ((_, single),) = one
    ((_, (joined,)),) = three
    assert len(single) == 3
    assert_trees_equal(
        joined, tuple(np.concatenate(views) for views in zip(*single, strict=True))
    )


def test_another_key_is_another_stream(records, devices):
    first, other = (
        drain(lambda key, k=k, **s: streamed(records, devices[:1])(k, **s), **SHORT)
        for k in (KEY, jax.random.key(6))
    )
    assert not np.array_equal(first[0][1][0][0], other[0][1][0][0])


SHORT = {"steps": 1, "epochs": 1}


def test_every_row_is_of_this_process_where_there_is_one(devices):
    for count in (1, 8):
        mesh = make_mesh(devices[:count])
        np.testing.assert_array_equal(local_rows(mesh, 16), np.arange(16))


STREAMED = {
    "data__source": "fake:10x9x3x48",
    "data__max_resident_bytes": 0,
    "data__workers": 0,
    "data__views": "cifar",
    "data__view_size": 8,
    "training__epochs": 2,
}


def train(count, state=None):
    """[(epoch, state on the host, metrics)] of a streamed run on so many devices."""
    run, throughput = tiny.run(devices=count, **STREAMED), loop.Throughput()
    with jax.set_mesh(run.mesh):
        if state is None:
            state = fit.start_up(run, run.feeds(), throughput)
        state = run.place(state)
        epochs = fit.train_epochs(run, state, run.feeds(), throughput)
        return [(epoch, jax.tree.map(np.array, s), m) for epoch, s, m in epochs]


@pytest.fixture(scope="module")
def trained(devices):
    return train(1)


def test_a_streamed_run_trains_whole_epochs(trained):
    assert [epoch for epoch, _, _ in trained] == [1, 2]
    assert [int(state.step) for _, state, _ in trained] == [3, 6]
    losses = np.concatenate([metrics["loss"] for _, _, metrics in trained])
    assert losses.shape == (6,)
    assert np.isfinite(losses).all()


def test_a_streamed_run_is_the_same_on_eight_devices(trained):
    spread = train(8)
    for (_, state, metrics), (_, other, values) in zip(trained, spread, strict=True):
        assert_trees_close(other, state, rtol=1e-3, atol=1e-4)
        assert_trees_close(values, metrics, rtol=1e-3, atol=1e-4)


def test_a_streamed_run_goes_on_to_the_same_bits(trained):
    ((epoch, state, metrics),) = train(1, state=trained[0][1])
    assert epoch == 2
    assert_trees_equal(state, trained[1][1])
    assert_trees_equal(metrics, trained[1][2])
