"""The devices never wait for the host inside an epoch.

A CPU's arrays are the host's own, and `jax.transfer_guard` lets every read of them
pass. So what dispatches return is hidden here: only `jax.device_get` opens it.
"""

import jax
import numpy as np
import pytest

from caco_jax.training import feeds, loop
from tests.runs import tiny

DISPATCHES = 3  # 48 images in batches of 16, single steps on a CPU
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
    """What the loop does: ("dispatch" or "copy", number of the dispatch)."""
    seen = []

    def make_dispatch(*_, **__):
        def dispatch(state, fixed, chosen):
            number = sum(event == "dispatch" for event, _ in seen)
            seen.append(("dispatch", number))
            metrics = {"loss": OnDevice(number, np.ones(len(chosen), np.float32))}
            return OnDevice(number, None), metrics

        return dispatch

    def device_get(tree):
        opened = jax.tree.map(lambda leaf: leaf.value, tree)
        seen.extend(("copy", leaf.number) for leaf in jax.tree.leaves(tree))
        return opened

    monkeypatch.setattr(loop, "make_dispatch", make_dispatch)
    monkeypatch.setattr(jax, "device_get", device_get)
    return seen


@pytest.fixture(scope="module")
def experiment(devices):
    return tiny.experiment(devices=devices[:1])


def run_epoch(experiment, **options):
    """The losses of one epoch."""
    state = assemble.initial_state(experiment)
    open_feed = feeds.experiment_feeds(experiment)
    key = experiment.keys.order
    with open_feed(key, steps=DISPATCHES, epochs=1) as feed:
        ((_, _, metrics),) = loop.run_phase(
            experiment, lambda *_: None, state, feed, loop.Progress(), **options
        )
    return metrics["loss"]


def test_only_metrics_are_copied_and_only_behind_the_next_dispatch(events, experiment):
    assert len(run_epoch(experiment)) == DISPATCHES
    expected = [("dispatch", 0)]
    for number in range(1, DISPATCHES):
        expected += [("dispatch", number), ("copy", number - 1)]
    assert events == [*expected, ("copy", DISPATCHES - 1)]


def test_reading_what_still_runs_is_found(events, experiment):
    def hasty(dispatch, state, fixed, inputs, stop):
        for chosen in inputs:
            state, metrics = dispatch(state, fixed, chosen)
            yield state, {"loss": np.asarray(metrics["loss"])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_dispatched", hasty)
        with pytest.raises(AssertionError, match="dispatch 0 was waited for"):
            run_epoch(experiment)


def test_a_compiled_step_calls_nothing_on_the_host(experiment):
    step = assemble.training_step(experiment)
    state = jax.eval_shape(lambda: assemble.initial_state(experiment))
    images = jax.ShapeDtypeStruct((16, 8, 8, 1), np.uint8)
    program = str(jax.make_jaxpr(step)(state, images))
    assert "dot_general" in program  # it is the step
    for call in ("callback", "outfeed", "infeed", "device_put"):
        assert f"{call}[" not in program
