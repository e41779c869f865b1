"""MoCo v2: a queue of past keys as negatives, without an extra player.

References:
    He et al. 2020, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax.losses.contrast import l2_normalize, moco_loss
from caco_jax.methods.method import (
    Context,
    Method,
    Outcome,
    Players,
    PyTree,
    View,
    attack_query,
    check_two_views,
    embedding_spread,
    encode_pairs,
    interleave_rows,
    key_views,
    precision_setting,
)
from caco_jax.schema import POSITIVE, Range, setting, validate


@dataclasses.dataclass(frozen=True)
class MocoConfig:
    """Settings of MoCo v2."""

    queue_size: int = setting(
        65536, allowed=Range(low=2), doc="Number K of keys in the queue."
    )
    temperature: float = setting(0.2, allowed=POSITIVE, doc="Softmax temperature.")
    symmetric: bool = setting(
        False,
        doc="Whether both views are queries and keys, with weight 1/2 for each "
        "direction.",
    )
    batch_keys: bool = setting(
        False,
        doc="Whether the other keys of the batch are negatives too, as in AdCo.",
    )
    precision: str = precision_setting("queue")

    def __post_init__(self) -> None:
        validate(self)


def enqueue(
    queue: Float[Array, "k d"], next_row: Array, keys: Float[Array, "m d"]
) -> tuple[Float[Array, "k d"], Array]:
    """The queue with its oldest rows replaced, and the row to be replaced next.

    Args:
        queue: [K, D]; rows from `next_row` on, and around its end, are the oldest.
        next_row: an integer in [0, K).
        keys: [M, D], oldest first; of more than K the last K stay.
    """
    size = queue.shape[0]
    skipped = max(keys.shape[0] - size, 0)
    rows = (next_row + jnp.arange(skipped, keys.shape[0])) % size
    queue = queue.at[rows].set(keys[skipped:].astype(queue.dtype))
    return queue, (next_row + keys.shape[0]) % size


def make(config: MocoConfig, *, embedding_dim: int) -> Method:
    """MoCo v2 as pure functions, for two views.

    The encoder descends InfoNCE of each query against its key and the queue, and with
    `batch_keys` against the other keys of the whole batch. Keys
    enter the queue after the step: no image meets a view of itself there before both
    of its views were scored.

    Args:
        config: the method's settings.
        embedding_dim: width D of the embeddings and of the queue's rows.
    """

    def init(key: PRNGKeyArray) -> tuple[dict[str, PyTree], PyTree]:
        queue = l2_normalize(jax.random.normal(key, (config.queue_size, embedding_dim)))
        return {}, {"queue": queue, "next_row": jnp.zeros((), jnp.int32)}

    def payoff(
        players: Players, context: Context, views: Sequence[View]
    ) -> tuple[Float[Array, ""], Outcome]:
        check_two_views("moco", views)
        both = config.symmetric and len(key_views(views)) == 2
        pairs = [(0, 1), (1, 0)] if both else [(0, 1)]
        found = encode_pairs(players, context, views, pairs)
        losses = [
            moco_loss(
                found.queries[query],
                found.keys[key],
                context.extra["queue"],
                temperature=config.temperature,
                batch_keys=config.batch_keys,
                precision=config.precision,
            )
            for query, key in pairs
        ]
        loss = sum(losses[1:], start=losses[0]) / len(losses)
        metrics = {
            "cross_entropy": losses[0],
            "embedding_std": embedding_spread(found.queries[0]),
        }
        arrays = {"keys": interleave_rows(list(found.keys.values()))}
        return loss, Outcome(found.online.stats, found.target, arrays, metrics)

    def advance(
        players: Players, extra: PyTree, outcome: Outcome
    ) -> tuple[Players, PyTree]:
        queue, next_row = enqueue(
            extra["queue"], extra["next_row"], outcome.arrays["keys"]
        )
        return players, {"queue": queue, "next_row": next_row}

    return Method(
        name="moco",
        description=f"MoCo v2: a queue of {config.queue_size:,} past keys",
        moves={"encoder": "descend"},
        uses_target=True,
        init=init,
        payoff=payoff,
        advance=advance,
        candidates=lambda batch_size: (
            (batch_size if config.batch_keys else 1) + config.queue_size
        ),
        attack=attack_query,
        row_sharded={"queue": "queue_size"},
        memory="queue",
    )
