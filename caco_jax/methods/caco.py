"""CaCo: a bank whose entries are positives and negatives of queries.

References:
    Wang, Huang, Zeng, Qi, "CaCo: Both Positive and Negative Samples are Directly
    Learnable via Cooperative-adversarial Contrastive Learning", arXiv:2203.14370.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from caco_jax.losses.bank import ROLES, caco_loss, nearest_entries
from caco_jax.methods.bank_use import (
    MOVERS,
    bank_use_metrics,
    new_bank_ages,
    refresh_ages,
)
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
    interleave_rows,
    key_views,
    precision_setting,
    split_rows,
)
from caco_jax.methods.start_up import BANK_OPTIMIZER, fill_bank
from caco_jax.schema import FRACTION, NON_NEGATIVE, POSITIVE, Range, setting, validate

# Of the extra state: the number of the next random draw of positives.
_DRAW = "positive_draw"
# In multi-crop as without: the small crops give no keys, at the start-up neither.
LARGE_VIEWS = slice(0, 2)


@dataclasses.dataclass(frozen=True)
class CacoConfig:
    """Settings of CaCo."""

    bank_size: int = setting(
        65536, allowed=Range(low=2), doc="Number K of entries of the bank."
    )
    temperature: float = setting(
        0.08, allowed=POSITIVE, doc="Softmax temperature of the encoder's loss."
    )
    bank_temperature: float = setting(
        0.08, allowed=POSITIVE, doc="Softmax temperature of the bank's update."
    )
    start_up_temperature: float = setting(
        0.2,
        allowed=POSITIVE,
        doc="Softmax temperature of the start-up phase, which fills the bank.",
    )
    start_up_momentum: float = setting(
        0.999,
        allowed=FRACTION,
        doc="Momentum of the target encoder in the start-up phase.",
    )
    start_up_epochs: int = setting(
        0,
        allowed=NON_NEGATIVE,
        doc="Epochs of the start-up phase. 0 ends it when the bank is full.",
    )
    positive: str = setting(
        "nearest",
        allowed=("nearest", "random"),
        doc="Choice of a query's positive entry: nearest is the entry nearest to the "
        "key of another view, random is any entry, drawn in every step.",
    )
    bank_roles: str = setting(
        "both",
        allowed=ROLES,
        doc="Queries that move an entry of the bank: positives are queries whose "
        "positive it is, negatives are the other queries.",
    )
    bank_moved_by: str = setting(
        "queries",
        allowed=MOVERS,
        doc="Vectors that the bank's rows move toward; queries is the published CaCo.",
    )
    pass_per_view: bool = setting(
        False,
        doc="Whether multi-crop encodes each view separately, so that views share no "
        "BatchNorm statistics, as in the released code. False encodes views of one "
        "size together.",
    )
    precision: str = precision_setting("bank")

    def __post_init__(self) -> None:
        validate(self)


def _pairs(
    num_views: int, keys: Sequence[int]
) -> list[tuple[float, list[tuple[int, int]]]]:
    """Groups of (query view, key view) with the weight of each group's mean loss.

    Views 0 and 1 are large and give keys; the rest are small crops. Two views alone
    are summed over their directions; with small crops each group counts its mean once.
    """
    large = [(query, key) for query in (0, 1) for key in keys if query != key]
    small = [(query, key) for query in range(2, num_views) for key in keys]
    return [(1.0, large), (1.0, small)] if small else [(float(len(large)), large)]


def _choose(
    keys: Float[Array, "m d"],
    bank: Float[Array, "k d"],
    extra: PyTree,
    precision: str,
) -> Int[Array, " m"]:
    """The positive entry of each key: the nearest entry, or a random one."""
    if _DRAW not in extra:
        return nearest_entries(keys, bank, precision=precision)
    key = jax.random.fold_in(jax.random.key(0), extra[_DRAW])
    return jax.random.randint(key, keys.shape[:1], 0, bank.shape[0], jnp.int32)


def payoff(
    config: CacoConfig, players: Players, context: Context, views: Sequence[View]
) -> tuple[Float[Array, ""], Outcome]:
    """The payoff, which the encoder descends and the bank ascends; see `make`."""
    bank = players["bank"]
    groups = _pairs(len(views), key_views(views))
    found = encode_pairs(
        players,
        context,
        views,
        [pair for _, pairs in groups for pair in pairs],
        pass_per_view=config.pass_per_view,
    )
    # One walk over the bank for the keys of both views.
    keys = interleave_rows(list(found.keys.values()))
    entries = _choose(keys, bank, context.extra, config.precision)
    positives = dict(zip(found.keys, split_rows(entries, len(found.keys)), strict=True))

    loss = jnp.zeros((), found.queries[0].dtype)
    metrics: dict[str, Array] = {}
    for weight, pairs in groups:
        movers = None
        if config.bank_moved_by == "keys":
            movers = interleave_rows([found.keys[key] for _, key in pairs])
        group_loss, aux = caco_loss(
            interleave_rows([found.queries[query] for query, _ in pairs]),
            interleave_rows([positives[key] for _, key in pairs]),
            bank,
            temperature=config.temperature,
            bank_temperature=config.bank_temperature,
            movers=movers,
            roles=config.bank_roles,
            precision=config.precision,
        )
        loss = loss + weight * group_loss
        metrics.setdefault("cross_entropy", group_loss)
        metrics.setdefault("positive_probability", aux.positive_probability.mean())
    ages = refresh_ages(context.extra["bank_ages"], entries)
    metrics |= {"embedding_std": embedding_spread(found.queries[0])}
    metrics |= bank_use_metrics(ages)
    return loss, Outcome(found.online.stats, found.target, {"bank_ages": ages}, metrics)


def make(config: CacoConfig, *, embedding_dim: int) -> Method:
    """CaCo as pure functions, for two views or for multi-crop.

    The encoder descends the cross entropy of each query over the bank's entries; the
    label is the entry nearest to the key of another view. The bank's entries move
    toward the queries: cooperating as positives, as adversaries where they are
    negatives.

    Args:
        config: the method's settings.
        embedding_dim: width D of the embeddings and of the bank's rows.
    """

    def init(key: PRNGKeyArray) -> tuple[dict[str, PyTree], PyTree]:
        bank = jax.random.normal(key, (config.bank_size, embedding_dim))
        extra = {"bank_ages": new_bank_ages(config.bank_size)}
        if config.positive == "random":
            extra[_DRAW] = jax.random.bits(jax.random.fold_in(key, 1), dtype=jnp.uint32)
        return {"bank": bank}, extra

    def advance(
        players: Players, extra: PyTree, outcome: Outcome
    ) -> tuple[Players, PyTree]:
        extra = {**extra, "bank_ages": outcome.arrays["bank_ages"]}
        if _DRAW in extra:
            extra[_DRAW] += jnp.uint32(1)
        return players, extra

    return Method(
        name="caco",
        description=(
            f"CaCo: {config.bank_size:,} learnable entries, cooperative positives, "
            "adversarial negatives"
        ),
        moves={"encoder": "descend", "bank": "ascend"},
        uses_target=True,
        init=init,
        payoff=functools.partial(payoff, config),
        advance=advance,
        candidates=lambda batch_size: config.bank_size,
        attack=attack_query,
        optimizers={"bank": BANK_OPTIMIZER},
        row_sharded={"bank": "bank_size", "bank_ages": "bank_size"},
        memory="bank",
        multicrop=True,
        start_up=fill_bank(
            bank_size=config.bank_size,
            temperature=config.start_up_temperature,
            target_momentum=config.start_up_momentum,
            epochs=config.start_up_epochs,
            query_views=LARGE_VIEWS,
            key_views=LARGE_VIEWS,
        ),
    )
