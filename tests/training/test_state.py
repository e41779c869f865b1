"""The state before the first step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from caco_jax.methods.method import Method, Network, keep
from caco_jax.training.state import create_state


def make(uses_target=True):
    method = Method(
        name="stub",
        description="",
        moves={"encoder": "descend", "bank": "ascend"},
        uses_target=uses_target,
        init=lambda key: (
            {"bank": jax.random.normal(key, (3, 2))},
            {"seen": jnp.ones(3)},
        ),
        payoff=lambda *_: pytest.fail("nothing is played yet"),
        advance=keep,
    )
    network = Network({"kernel": jnp.arange(4.0)}, {"mean": jnp.ones(4)})
    return create_state(jax.random.key(3), method, network, optax.trace(0.9)), network


def test_the_state_holds_all_players_and_counts_from_zero():
    state, network = make()
    assert (int(state.step), state.step.dtype, state.step.shape) == (0, jnp.int32, ())
    assert set(state.players) == {"encoder", "bank"}
    np.testing.assert_array_equal(state.players["encoder"]["kernel"], [0, 1, 2, 3])
    expected = jax.random.normal(jax.random.key(3), (3, 2))
    np.testing.assert_array_equal(state.players["bank"], expected)
    np.testing.assert_array_equal(state.extra["seen"], 1)
    assert state.stats["mean"] is network.stats["mean"]
    trace = jax.tree.map(jnp.zeros_like, state.players)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state.trace, trace)


def test_the_target_starts_as_a_copy_of_the_encoder_with_its_statistics():
    state, network = make()
    jax.tree.map(np.testing.assert_array_equal, state.target, network)
    owned = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(owned)) == len(owned)  # a buffer cannot be donated twice


def test_a_method_without_a_target_has_none():
    assert make(uses_target=False)[0].target is None


def test_no_array_has_a_python_numbers_type():
    """A step, which returns none, would be compiled once more for its own results."""
    weak = {"scale": jnp.full((), 1.5)}
    assert weak["scale"].weak_type
    method = Method(
        name="weak",
        description="",
        moves={"encoder": "descend", "rival": "ascend"},
        uses_target=True,
        init=lambda key: ({"rival": weak}, {"count": jnp.full((), 2)}),
        payoff=lambda *_: pytest.fail("nothing is played yet"),
        advance=keep,
    )
    network = Network(weak, {"mean": jnp.full((2,), 3.0)})
    state = create_state(jax.random.key(0), method, network, optax.trace(0.9))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    assert float(state.players["rival"]["scale"]) == 1.5
    assert float(state.extra["count"]) == 2
