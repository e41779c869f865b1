"""What a contrastive method is made of: players, their payoff, what follows a step.

A method is data. The one train step asks it for a scalar payoff of all players,
differentiates that, and lets each player descend, ascend or hold still. Images come
to the payoff as `View`s together with a way to encode them, so that wrappers (input
adversaries), the symmetric form and multi-crop are compositions, not new steps.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

PyTree = Any
Move = Literal["descend", "ascend", "hold"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """One view of a batch, and the BatchNorm branch that must see it.

    Attributes:
        images: [N, H, W, C] floats, normalised.
        branch: "clean" or "adversarial".
    """

    images: Float[Array, "n h w c"]
    branch: str = dataclasses.field(default="clean", metadata={"static": True})


class Network(NamedTuple):
    """An encoder's parameters and its BatchNorm statistics."""

    params: PyTree
    stats: PyTree


# (network, view) -> unit embeddings [N, D], the network with its new statistics
EncodeFn = Callable[[Network, View], tuple[Float[Array, "n d"], Network]]


class Encode(NamedTuple):
    """How each network encodes; they differ where keys are shuffled for BatchNorm."""

    online: EncodeFn
    target: EncodeFn


class Context(NamedTuple):
    """What a payoff reads beside the players, all constant for its gradients.

    Attributes:
        stats: BatchNorm statistics of the online encoder.
        target: the slowly moving copy of the encoder, or None.
        extra: the method's own arrays that no player moves (a queue, use counts).
        encode: how to turn views into embeddings.
    """

    stats: PyTree
    target: Network | None
    extra: PyTree
    encode: Encode


class Outcome(NamedTuple):
    """What a payoff reports beside its scalar.

    Attributes:
        stats: new BatchNorm statistics of the online encoder.
        target: the target network with its new statistics, or None.
        arrays: what `advance` consumes, by name (keys to enqueue, chosen positives).
        metrics: scalars to log, by name.
    """

    stats: PyTree
    target: Network | None
    arrays: Mapping[str, Array]
    metrics: Mapping[str, Float[Array, ""]]


Players = dict[str, PyTree]
PayoffFn = Callable[
    [Players, Context, Sequence[View]], tuple[Float[Array, ""], Outcome]
]


class StartUp(NamedTuple):
    """A phase before training, played by another method over the same players.

    Attributes:
        method: what is played; its players have the trained method's names.
        examples: how many examples the phase needs; one pass over the data at most.
        target_momentum: of the target encoder in this phase; None keeps the run's.
    """

    method: "Method"
    examples: int
    target_momentum: float | None


class Method(NamedTuple):
    """A contrastive method as pure functions; one shared step calls them.

    Attributes:
        name: as in the registry.
        description: one line for people.
        moves: for each player, what its optimiser does with the payoff's gradient.
        uses_target: whether there is a target encoder.
        init: key -> (the players beside the encoder, extra state).
        payoff: (players, context, views) -> (scalar, outcome).
        advance: (players, extra, outcome) -> (players, extra), after the players moved.
        start_up: a phase before training, or None.
        chance_level: the metric "cross_entropy" of an encoder that knows nothing: ln of
            the number of candidates; None where it has no such metric.
    """

    name: str
    description: str
    moves: Mapping[str, Move]
    uses_target: bool
    init: Callable[[PRNGKeyArray], tuple[dict[str, PyTree], PyTree]]
    payoff: PayoffFn
    advance: Callable[[Players, PyTree, Outcome], tuple[Players, PyTree]]
    start_up: StartUp | None = None
    chance_level: float | None = None


def keep(players: Players, extra: PyTree, outcome: Outcome) -> tuple[Players, PyTree]:
    """The `advance` of a method that has nothing to do after a step."""
    del outcome
    return players, extra


def online_network(players: Players, context: Context) -> Network:
    """The encoder player with its BatchNorm statistics."""
    return Network(players["encoder"], context.stats)


def encode_views(
    encode: EncodeFn, network: Network, views: Sequence[View]
) -> tuple[list[Float[Array, "n d"]], Network]:
    """Encodes each view by itself, in order; statistics flow from one to the next."""
    embeddings = []
    for view in views:
        embedding, network = encode(network, view)
        embeddings.append(embedding)
    return embeddings, network


def interleave_rows(parts: Sequence[Float[Array, "n d"]]) -> Float[Array, "vn d"]:
    """Rows of all parts as one matrix, example by example.

    Example-major order keeps rows on the device that holds them when the batch is
    sharded; concatenation would move them.
    """
    return jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def embedding_spread(embeddings: Float[Array, "n d"]) -> Float[Array, ""]:
    """Scaled standard deviation of unit embeddings: about 1 spread out, 0 collapsed."""
    per_dimension = jnp.std(embeddings.astype(jnp.float32), axis=0)
    return jnp.mean(per_dimension) * jnp.sqrt(jnp.float32(embeddings.shape[1]))
