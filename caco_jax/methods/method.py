"""The parts of a contrastive method: players, payoff, updates after a step.

A method is data. The one train step asks it for a scalar payoff of all players,
differentiates that, and lets each player descend, ascend or hold still. Images come
to the payoff as `View`s together with a way to encode them, so that wrappers (input
adversaries), the symmetric form and multi-crop are compositions, not new steps.
"""

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax.losses.contrast import HIGHEST, PRECISIONS
from caco_jax.nets.functions import Network
from caco_jax.nets.norm import CLEAN
from caco_jax.optim.settings import OptimizerConfig
from caco_jax.schema import setting

PyTree = Any
Move = Literal["descend", "ascend", "hold"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """One view of a batch, with the BatchNorm branch that encodes it.

    Attributes:
        images: [N, ...] examples as the views made them; images are [N, H, W, C]
            floats, normalised.
        branch: "clean" or "adversarial".
    """

    images: Array
    branch: str = dataclasses.field(default=CLEAN, metadata={"static": True})


# (network, view) -> unit embeddings [N, D], the network with its new statistics
EncodeFn = Callable[[Network, View], tuple[Float[Array, "n d"], Network]]


class Encode(NamedTuple):
    """The encoding functions of online and target encoder; the target may shuffle."""

    online: EncodeFn
    target: EncodeFn


class Context(NamedTuple):
    """The arguments of a payoff other than the players; they are constants.

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
    """The results of a payoff other than the scalar.

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
    """A start-up phase before training: another method with the same players.

    Attributes:
        method: what is played; its players have the trained method's names, and a
            player that it does not name holds still.
        examples: how many examples the phase needs, one pass at most, if `epochs` is 0.
        epochs: or so many passes over the data.
        target_momentum: of the target encoder in this phase; None keeps the run's.
    """

    method: "Method"
    examples: int
    epochs: int
    target_momentum: float | None


class Attack(NamedTuple):
    """How an input adversary's images enter a method's payoff.

    Attributes:
        source: the view whose images are perturbed.
        partner: the view that they are scored against, which stays clean.
        as_query: True: the pair is (adversarial, partner), and the target encoder
            makes the partner's key. False: it is (partner, adversarial), both through
            the online encoder, which meets the partner in the adversarial branch
            while the attack is made.
    """

    source: int
    partner: int
    as_query: bool


def attack_second_view(num_views: int) -> Attack:
    """Replaces the second view by the perturbed first view, as published."""
    del num_views
    return Attack(source=0, partner=0, as_query=False)


def attack_query(num_views: int) -> Attack:
    """Uses a perturbed large view as the query and the other large view as the key."""
    if num_views == 2:
        return Attack(source=0, partner=1, as_query=True)
    return Attack(source=1, partner=0, as_query=True)  # multi-crop: view 0 is the key


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
        candidates: batch size -> among how many candidates the metric "cross_entropy"
            looks for the positive; None where it has no such metric.
        attack: number of views -> where adversarial images enter; None where they
            cannot.
        multicrop: whether there may be more than two views.
        optimizers: the default optimiser of each player; a player that is not named
            has `OptimizerConfig`'s.
        row_sharded: names of players and of extra state with a row an entry, which are
            spread over the devices, each with the setting that says how many rows.
        memory: the one of them whose rows queries are scored against, or None.
        settings: what the method was made from, for the record of a run.
        twin: whether it sends adversarial images through a BatchNorm branch of their
            own.
    """

    name: str
    description: str
    moves: Mapping[str, Move]
    uses_target: bool
    init: Callable[[PRNGKeyArray], tuple[dict[str, PyTree], PyTree]]
    payoff: PayoffFn
    advance: Callable[[Players, PyTree, Outcome], tuple[Players, PyTree]]
    start_up: StartUp | None = None
    candidates: Callable[[int], int] | None = None
    attack: Callable[[int], Attack] | None = None
    multicrop: bool = False
    optimizers: Mapping[str, OptimizerConfig] = types.MappingProxyType({})
    row_sharded: Mapping[str, str] = types.MappingProxyType({})
    memory: str | None = None
    settings: Any = None
    twin: bool = False


def keep(players: Players, extra: PyTree, outcome: Outcome) -> tuple[Players, PyTree]:
    """The `advance` of a method without updates after a step."""
    del outcome
    return players, extra


def online_network(players: Players, context: Context) -> Network:
    """The encoder player with its BatchNorm statistics."""
    return Network(players["encoder"], context.stats)


def encode_views(
    encode: EncodeFn, network: Network, views: Sequence[View]
) -> tuple[list[Float[Array, "n d"]], Network]:
    """Encodes the views one after another and updates the statistics by each."""
    embeddings = []
    for view in views:
        embedding, network = encode(network, view)
        embeddings.append(embedding)
    return embeddings, network


def encode_by_size(
    encode: EncodeFn, network: Network, views: Sequence[View]
) -> tuple[list[Float[Array, "n d"]], Network]:
    """Encodes views of one size and branch in one pass, with shared statistics.

    Multi-crop has many views of few sizes. Groups of BatchNorm, if there are any, then
    hold all of a group's views of each of their examples.
    """
    together: dict[Any, list[int]] = {}
    for i, view in enumerate(views):
        together.setdefault((view.images.shape, view.branch), []).append(i)
    embeddings: dict[int, Float[Array, "n d"]] = {}
    for (_, branch), members in together.items():
        view = views[members[0]]
        if len(members) > 1:
            view = View(interleave_rows([views[i].images for i in members]), branch)
        rows, network = encode(network, view)
        embeddings |= zip(members, split_rows(rows, len(members)), strict=True)
    return [embeddings[i] for i in range(len(views))], network


class Encoded(NamedTuple):
    """The embeddings of (query view, key view) pairs, and the updated networks.

    Attributes:
        queries: by view; of the online encoder.
        keys: by view; of the target encoder, constant for every gradient.
        online: the online network with its new statistics.
        target: the target network with its new statistics.
    """

    queries: dict[int, Float[Array, "n d"]]
    keys: dict[int, Float[Array, "n d"]]
    online: Network
    target: Network


def encode_pairs(
    players: Players,
    context: Context,
    views: Sequence[View],
    pairs: Iterable[tuple[int, int]],
    *,
    pass_per_view: bool = False,
) -> Encoded:
    """Encodes the views of the pairs once each: first all queries, then all keys.

    Two views take a pass each, as the papers' BatchNorm has it; of more, those of one
    size share a pass unless `pass_per_view` is set.
    """
    query_views, key_views = (sorted(set(side)) for side in zip(*pairs, strict=True))
    each_alone = pass_per_view or len(views) == 2
    encode_all = encode_views if each_alone else encode_by_size
    queries, online = encode_all(
        context.encode.online,
        online_network(players, context),
        [views[i] for i in query_views],
    )
    assert context.target is not None
    keys, target = encode_all(
        context.encode.target, context.target, [views[i] for i in key_views]
    )
    return Encoded(
        queries=dict(zip(query_views, queries, strict=True)),
        keys=dict(zip(key_views, jax.lax.stop_gradient(keys), strict=True)),
        online=online,
        target=target,
    )


def key_views(views: Sequence[View]) -> tuple[int, ...]:
    """The views that have keys: the first two, without adversarial images."""
    return tuple(i for i, view in enumerate(views[:2]) if view.branch == CLEAN)


def check_two_views(name: str, views: Sequence[View]) -> None:
    """Raises ValueError unless there are two views."""
    if len(views) != 2:
        raise ValueError(f"{name}: expected two views, got {len(views)}")


def interleave_rows(parts: Sequence[Float[Array, "n d"]]) -> Float[Array, "vn d"]:
    """Rows of all parts as one matrix, example by example.

    Example-major order keeps rows on the device that holds them when the batch is
    sharded; concatenation would move them.
    """
    return jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def split_rows(rows: Float[Array, "vn ..."], count: int) -> list[Array]:
    """The inverse of `interleave_rows`: splits a matrix into its parts."""
    by_example = rows.reshape(-1, count, *rows.shape[1:])
    return [by_example[:, i] for i in range(count)]


def embedding_spread(embeddings: Float[Array, "n d"]) -> Float[Array, ""]:
    """Scaled standard deviation of unit embeddings: about 1 spread out, 0 collapsed."""
    per_dimension = jnp.std(embeddings.astype(jnp.float32), axis=0)
    return jnp.mean(per_dimension) * jnp.sqrt(jnp.float32(embeddings.shape[1]))


def precision_setting(memory: str) -> Any:
    """The setting `precision` of a method, which its losses get.

    Args:
        memory: what the method calls its candidates, "bank" or "queue".
    """
    return setting(
        HIGHEST,
        allowed=PRECISIONS,
        doc=f"Precision of the matrix products with the {memory} on TPUs and GPUs: "
        "highest is float32; high and default round more and are faster. CPUs always "
        "use float32.",
    )
