"""The one train state that every method shares."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray

from caco_jax.methods.method import Method, Network

PyTree = Any


class TrainState(NamedTuple):
    """Everything that a step changes; a pytree.

    Attributes:
        step: steps taken.
        players: the encoder's parameters and the other players' arrays, by name.
        stats: BatchNorm statistics of the online encoder.
        target: parameters and own statistics of the target encoder, or None.
        extra: the method's own arrays (queue, use counts).
        opt_state: of all players' optimisers.
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
        key: for the method's own players.
        method: the method.
        network: the freshly initialised encoder.
        optimizer: of all players.
    """
    # Copies: a step donates what it is given, which may be the method's own constants.
    others, extra = _typed(jax.tree.map(jnp.copy, method.init(key)))
    network = _typed(network)
    players = {"encoder": network.params, **others}
    # A donated buffer must not appear twice in the state: the target is a copy.
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
    """The same arrays, none of a Python number's weak type.

    A step gives back arrays of their own type, and would be compiled again for them.
    """

    def typed(leaf: Any) -> Any:
        kind = jax.typeof(leaf)
        return lax.convert_element_type(leaf, kind.dtype) if kind.weak_type else leaf

    return jax.tree.map(typed, tree)
