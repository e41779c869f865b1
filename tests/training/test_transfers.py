"""The devices never wait for the host inside an epoch.

A CPU's arrays are the host's own, and `jax.transfer_guard` lets every read of them
pass. So what dispatches return is hidden here: only `jax.device_get` opens it.
"""

import itertools
import types

import jax
import numpy as np
import pytest

from caco_jax.training import loop
from caco_jax.training.feeds import resident_feeds
from caco_jax.training.sharding import make_mesh
from tests.runs import tiny

DISPATCHES = 3
READS = ("__array__", "__float__", "__int__", "__bool__", "__index__", "__len__")


class OnDevice:
    """An array of a dispatch that may still run."""

    def __init__(self, number, value):
        self.number, self.value = number, value


def refuse(self, *_, **__):
    raise AssertionError(f"dispatch {self.number} was waited for")


for read in (*READS, "__getitem__", "__iter__", "item", "tolist", "block_until_ready"):
    setattr(OnDevice, read, refuse)


@pytest.fixture
def events(monkeypatch):
    """What the loop copies: ("copy", number of the dispatch); more is added."""
    seen = []

    def device_get(tree):
        opened = jax.tree.map(lambda leaf: leaf.value, tree)
        seen.extend(("copy", leaf.number) for leaf in jax.tree.leaves(tree))
        return opened

    monkeypatch.setattr(jax, "device_get", device_get)
    return seen


def run_epoch(events, dispatched=None):
    """The losses of one epoch, of dispatches that are noted in the events."""
    numbers = itertools.count()

    def dispatch(state, fixed, chosen):
        number = next(numbers)
        events.append(("dispatch", number))
        metrics = {"loss": OnDevice(number, np.ones(len(chosen), np.float32))}
        return OnDevice(number, None), metrics

    images = np.zeros((16 * DISPATCHES, 1, 1, 1), np.uint8)
    open_feed = resident_feeds(images, make_mesh(jax.devices()[:1]), batch_size=16)
    state = types.SimpleNamespace(step=0)
    with open_feed(jax.random.key(0), steps=DISPATCHES, epochs=1) as feed:
        if dispatched is not None:
            ((_, inputs),) = feed.epochs
            return list(dispatched(dispatch, state, feed.fixed, inputs))
        ((_, _, metrics),) = loop.run_phase(
            dispatch, state, feed, loop.Throughput(), batch_size=16
        )
    return metrics["loss"]


def test_only_metrics_are_copied_and_only_behind_the_next_dispatch(events):
    assert len(run_epoch(events)) == DISPATCHES
    expected = [("dispatch", 0)]
    for number in range(1, DISPATCHES):
        expected += [("dispatch", number), ("copy", number - 1)]
    assert events == [*expected, ("copy", DISPATCHES - 1)]


def test_reading_what_still_runs_is_found(events):
    def hasty(dispatch, state, fixed, inputs):
        for chosen in inputs:
            state, metrics = dispatch(state, fixed, chosen)
            yield state, {"loss": np.asarray(metrics["loss"])}

    with pytest.raises(AssertionError, match="dispatch 0 was waited for"):
        run_epoch(events, hasty)


def test_a_compiled_step_calls_nothing_on_the_host():
    run = tiny.run()
    state = jax.eval_shape(run.initial_state)
    images = jax.ShapeDtypeStruct((16, 8, 8, 1), np.uint8)
    program = str(jax.make_jaxpr(run.training_step())(state, images))
    assert "dot_general" in program  # it is the step
    for call in ("callback", "outfeed", "infeed", "device_put"):
        assert f"{call}[" not in program
