"""AdCo: a bank of negatives that ascends the encoder's loss.

References:
    Hu, Wang, Hu, Qi, "AdCo: Adversarial Contrast for Efficient Learning of Unsupervised
    Representations from Self-Trained Negative Adversaries", arXiv:2011.08435.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax.losses.bank import adco_loss
from caco_jax.methods.bank_use import MOVERS
from caco_jax.methods.method import (
    Context,
    Method,
    Outcome,
    Players,
    PyTree,
    View,
    attack_query,
    embedding_spread,
    encode_pairs,
    keep,
    key_views,
    precision_setting,
)
from caco_jax.methods.start_up import BANK_OPTIMIZER, fill_bank
from caco_jax.schema import NON_NEGATIVE, POSITIVE, Range, setting, validate


@dataclasses.dataclass(frozen=True)
class AdcoConfig:
    """Settings of AdCo."""

    bank_size: int = setting(
        65536, allowed=Range(low=2), doc="Number K of entries of the bank."
    )
    temperature: float = setting(
        0.12, allowed=POSITIVE, doc="Softmax temperature of the encoder's loss."
    )
    bank_temperature: float = setting(
        0.02, allowed=POSITIVE, doc="Softmax temperature of the bank's ascent."
    )
    start_up_epochs: int = setting(
        0,
        allowed=NON_NEGATIVE,
        doc="Epochs of the start-up phase, which fills the bank. 0 ends it when the "
        "bank is full, as published.",
    )
    symmetric: bool = setting(
        False,
        doc="Whether both large views are queries and keys, with weight 1/2 for each "
        "direction.",
    )
    batch_keys: bool = setting(
        True,
        doc="Whether the other keys of the batch are negatives too, beside the rows of "
        "the bank.",
    )
    bank_moved_by: str = setting(
        "queries",
        allowed=MOVERS,
        doc="Vectors that the bank's rows move toward; queries is the published AdCo.",
    )
    precision: str = precision_setting("bank")

    def __post_init__(self) -> None:
        validate(self)


def weighted_pairs(
    num_views: int, *, symmetric: bool
) -> list[tuple[float, tuple[int, int]]]:
    """Weights of the (query view, key view) pairs of a payoff.

    Two views: the first is the query, the second the key; in the symmetric form both
    directions weigh half. With more, the first view is the key of all the others, each
    of which counts fully; in the symmetric form, which is ours, the first two views are
    keys of all views but themselves, and each pair weighs half.
    """
    if symmetric:
        pairs = [(query, key) for query in range(num_views) for key in (0, 1)]
        return [(0.5, (query, key)) for query, key in pairs if query != key]
    if num_views == 2:
        return [(1.0, (0, 1))]
    return [(1.0, (query, 0)) for query in range(1, num_views)]


def make(config: AdcoConfig, *, embedding_dim: int) -> Method:
    """AdCo as pure functions: one direction, symmetric, or multi-crop by the views.

    The encoder descends the cross entropy of each query's key among all keys of the
    batch and all entries of the bank; the bank ascends it at its own temperature. Of
    the batch only the own key is left without `batch_keys`.

    Args:
        config: the method's settings.
        embedding_dim: width D of the embeddings and of the bank's rows.
    """

    def init(key: PRNGKeyArray) -> tuple[dict[str, PyTree], PyTree]:
        return {"bank": jax.random.normal(key, (config.bank_size, embedding_dim))}, {}

    def payoff(
        players: Players, context: Context, views: Sequence[View]
    ) -> tuple[Float[Array, ""], Outcome]:
        both = config.symmetric and len(key_views(views)) == 2
        pairs = weighted_pairs(len(views), symmetric=both)
        found = encode_pairs(players, context, views, [pair for _, pair in pairs])
        first = next(iter(found.queries.values()))

        loss = jnp.zeros((), first.dtype)
        metrics: dict[str, Array] = {}
        for weight, (query, key) in pairs:
            pair_loss, aux = adco_loss(
                found.queries[query],
                found.keys[key],
                players["bank"],
                temperature=config.temperature,
                bank_temperature=config.bank_temperature,
                batch_keys=config.batch_keys,
                movers=found.keys[key] if config.bank_moved_by == "keys" else None,
                precision=config.precision,
            )
            loss = loss + weight * pair_loss
            metrics.setdefault("cross_entropy", pair_loss)
            metrics.setdefault("positive_probability", aux.positive_probability.mean())
            metrics.setdefault("batch_probability", aux.batch_probability.mean())
        metrics["embedding_std"] = embedding_spread(first)
        return loss, Outcome(found.online.stats, found.target, {}, metrics)

    return Method(
        name="adco",
        description=f"AdCo: {config.bank_size:,} learnable adversarial negatives",
        moves={"encoder": "descend", "bank": "ascend"},
        uses_target=True,
        init=init,
        payoff=payoff,
        advance=keep,
        start_up=fill_bank(
            bank_size=config.bank_size,
            temperature=config.temperature,
            epochs=config.start_up_epochs,
            query_views=slice(None) if config.symmetric else slice(None, -1),
            key_views=slice(None) if config.symmetric else slice(-1, None),
        ),
        candidates=lambda batch_size: (
            (batch_size if config.batch_keys else 1) + config.bank_size
        ),
        attack=attack_query,
        optimizers={"bank": dataclasses.replace(BANK_OPTIMIZER, weight_decay=1e-4)},
        row_sharded={"bank": "bank_size"},
        memory="bank",
        multicrop=True,
    )
