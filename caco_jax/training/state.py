"""The train state of every method."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray

from caco_jax.methods.method import Method, Network

PyTree = Any


class TrainState(NamedTuple):
    """Everything that a training step changes; a pytree.

    Attributes:
        step: number of steps done.
        players: the encoder's parameters and the other players' arrays, by name.
        stats: BatchNorm statistics of the online encoder.
        target: parameters and own statistics of the target encoder, or None.
        extra: other arrays of the method (queue, use counts).
        opt_state: optimiser state of all players.
    """

    step: Int[Array, ""]
    players: dict[str, PyTree]
    stats: PyTree
    target: Network | None
    extra: PyTree
    opt_state: optax.OptState


def create_state(
    key: PRNGKeyArray,
    method: Method,
    network: Network,
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """The state before the first step.

    Args:
        key: random key for the initial values of the method's own players.
        method: the method.
        network: the freshly initialised encoder.
        optimizer: the optimiser of all players, see `make_optimizer`.
    """
    # Copies, because a step donates its arguments, which may be constants of the
    # method.
    others, extra = _typed(jax.tree.map(jnp.copy, method.init(key)))
    network = _typed(network)
    players = {"encoder": network.params, **others}
    # The target is a copy: a donated buffer must not appear twice in the state.
    target = jax.tree.map(jnp.copy, network) if method.uses_target else None
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        players=players,
        stats=network.stats,
        target=target,
        extra=extra,
        opt_state=optimizer.init(players),
    )


def _typed(tree: PyTree) -> PyTree:
    """The same arrays without weak types.

    A step returns arrays of strong types and would be compiled a second time for them.
    """

    def typed(leaf: Any) -> Any:
        kind = jax.typeof(leaf)
        return lax.convert_element_type(leaf, kind.dtype) if kind.weak_type else leaf

    return jax.tree.map(typed, tree)
