"""Steps that say what is no longer finite, and undo themselves where they may."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.training.finite_check import all_finite, check_step
from caco_jax.training.state import TrainState
from tests.training.test_step import assert_trees_equal


def make_state():
    return TrainState(
        step=jnp.asarray(4, jnp.int32),
        players={"encoder": {"kernel": jnp.ones((2, 2))}, "bank": jnp.ones((3, 2))},
        stats={"mean": jnp.zeros(2)},
        target=None,
        extra={"ages": jnp.arange(3)},
        opt_state={"trace": jnp.ones(2), "count": jnp.asarray(4)},
    )


def step(state, spoil):
    """Doubles everything; what `spoil` names becomes infinite."""
    worst = {name: jnp.where(spoil == i, jnp.inf, 2.0) for i, name in enumerate(NAMES)}
    players = {
        "encoder": {"kernel": state.players["encoder"]["kernel"] * worst["encoder"]},
        "bank": state.players["bank"] * worst["bank"],
    }
    moved = state._replace(
        step=state.step + 1,
        players=players,
        stats={"mean": worst["BatchNorm statistics"] * jnp.ones(2)},
        opt_state=jax.tree.map(lambda leaf: 2 * leaf, state.opt_state),
    )
    return moved, {"loss": worst["loss"], "accuracy": jnp.asarray(1, jnp.int32)}


NAMES = ("encoder", "bank", "BatchNorm statistics", "loss", "nothing")
guarded = jax.jit(check_step(step))
skipping = jax.jit(check_step(step, skip=True))


@pytest.mark.parametrize("spoilt", NAMES)
def test_each_part_that_is_not_finite_is_named(spoilt):
    state, metrics = guarded(make_state(), NAMES.index(spoilt))
    named = [name for name, good in metrics["finite"].items() if not good]
    assert named == [spoilt] * (spoilt not in ("loss", "nothing"))
    assert "skipped" not in metrics
    expected, plain = jax.jit(step)(make_state(), NAMES.index(spoilt))
    assert_trees_equal(state, expected)
    assert_trees_equal({name: metrics[name] for name in plain}, plain)


@pytest.mark.parametrize("spoilt", NAMES)
def test_a_step_that_is_not_finite_is_undone_but_counted(spoilt):
    before = make_state()
    state, metrics = skipping(before, NAMES.index(spoilt))
    if spoilt == "nothing":
        expected, _ = jax.jit(step)(before, NAMES.index(spoilt))
    else:
        expected = before._replace(step=before.step + 1)
    assert_trees_equal(state, expected)
    assert int(metrics["skipped"]) == (spoilt != "nothing")


def test_what_has_no_arrays_is_finite():
    assert bool(all_finite({}))
    assert not bool(all_finite([jnp.ones(2), np.asarray([1.0, np.nan])]))
