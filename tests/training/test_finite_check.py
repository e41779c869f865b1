"""Steps that say what is no longer finite, and undo themselves where they may."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caco_jax.training.finite_check import (
    NonFiniteError,
    all_finite,
    check_finite,
    check_step,
)
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


def test_finite_metrics_pass():
    check_finite(3, {"loss": np.asarray([1.0, 2.0]), "empty": np.zeros(0)})


@settings(derandomize=True)
@given(
    first=st.integers(0, 1000),
    offset=st.integers(0, 4),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_the_first_bad_step_and_its_metric_are_named(first, offset, value):
    metrics = {name: np.ones(5, np.float32) for name in ("accuracy", "loss", "spread")}
    metrics["loss"][offset:] = value
    metrics["accuracy"][offset + 1 :] = np.nan
    with pytest.raises(NonFiniteError) as caught:
        check_finite(first, metrics)
    error = caught.value
    assert (error.step, error.metric) == (first + offset, "loss")
    assert str(error) == (
        f"step {first + offset}: loss is {value}; nothing was saved yet. "
        "Lower the learning rate or raise the temperature"
    )


def test_of_two_bad_metrics_of_a_step_the_first_by_name_is_told():
    bad = np.asarray([np.nan])
    with pytest.raises(NonFiniteError, match=r"^step 0: accuracy is nan"):
        check_finite(0, {"loss": bad, "accuracy": bad})


def test_the_norm_of_a_gradient_may_overflow():
    def with_norm(state, spoil):
        state, metrics = step(state, spoil)
        return state, {**metrics, "gradient_norm_encoder": jnp.inf * metrics["loss"]}

    good = NAMES.index("nothing")
    _, metrics = check_step(with_norm, skip=True)(make_state(), good)
    assert int(metrics["skipped"]) == 0
    check_finite(0, {"gradient_norm_encoder": np.asarray([np.inf, np.nan])})


def test_it_is_an_arithmetic_error_of_pythons_own():
    with pytest.raises(FloatingPointError):
        check_finite(0, {"loss": np.asarray([np.inf])})


def test_players_are_named_with_the_metric_of_the_step_that_broke_them():
    finite = {"encoder": np.array([True, False]), "bank": np.array([True, False])}
    loss = np.array([0.5, np.nan])
    with pytest.raises(NonFiniteError) as caught:
        check_finite(7, {"loss": loss}, finite, phase="start-up step")
    caught.value.kept_step = 4
    assert str(caught.value) == (
        "start-up step 8: loss is nan; bank, encoder no longer finite; the checkpoint "
        "of step 4 is kept. Lower the learning rate or raise the temperature"
    )


def test_a_player_breaks_before_the_metrics_show_it():
    finite = {"encoder": np.array([True, True]), "bank": np.array([False, False])}
    with pytest.raises(NonFiniteError, match=r"^step 3: bank no longer finite; ") as c:
        check_finite(3, {"loss": np.array([0.5, np.nan])}, finite)
    assert (c.value.step, c.value.metric, c.value.players) == (3, None, ("bank",))
