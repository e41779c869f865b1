"""Start-up phase of a bank: MoCo training that fills the bank with keys."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from caco_jax.losses.contrast import info_nce, l2_normalize
from caco_jax.methods.method import (
    Context,
    Method,
    Outcome,
    Players,
    PyTree,
    StartUp,
    View,
    embedding_spread,
    encode_views,
    online_network,
)
from caco_jax.optim.settings import OptimizerConfig

# The published bank moves at a rate of 3 throughout, without decay.
BANK_OPTIMIZER = OptimizerConfig(
    learning_rate=3.0, schedule="constant", weight_decay=0.0
)


def fill_bank(
    *,
    bank_size: int,
    temperature: float,
    query_views: slice = slice(None),
    key_views: slice = slice(None),
    target_momentum: float | None = None,
    epochs: int = 0,
) -> StartUp:
    """The start-up phase of AdCo and CaCo, as a method with the same players.

    The encoder descends InfoNCE of the first view's queries against the keys of the
    last view, with the bank's rows as negatives; the bank holds still. After each
    step the next rows become that step's keys, in batch order; a batch that does not
    fit at the end is cut, and the next begins at the first row again. Rows that no
    batch reached stay as they were.

    Args:
        bank_size: number of rows K to fill.
        temperature: of the softmax over 1 + K logits.
        query_views: which views the online encoder sees; the first gives the queries,
            the others only move BatchNorm's statistics, as in the released code.
        key_views: which views the target encoder sees; the last gives the keys.
        target_momentum: of the target encoder meanwhile; None keeps the run's own.
        epochs: how many passes over the data; 0 ends when the bank is full, within
            the first pass, as published.

    References:
        Hu et al. 2021, arXiv:2011.08435; Wang et al. 2023, arXiv:2203.14370.
    """

    def payoff(
        players: Players, context: Context, views: Sequence[View]
    ) -> tuple[Float[Array, ""], Outcome]:
        online = online_network(players, context)
        queries, online = encode_views(
            context.encode.online, online, views[query_views]
        )
        assert context.target is not None
        keys, target = encode_views(
            context.encode.target, context.target, views[key_views]
        )
        key = jax.lax.stop_gradient(keys[-1])
        negatives = jax.lax.stop_gradient(l2_normalize(players["bank"]))
        losses = info_nce(queries[0], key, negatives, temperature=temperature)
        metrics = {"embedding_std": embedding_spread(queries[0])}
        return losses.mean(), Outcome(online.stats, target, {"keys": key}, metrics)

    def advance(
        players: Players, extra: PyTree, outcome: Outcome
    ) -> tuple[Players, PyTree]:
        keys = outcome.arrays["keys"]
        bank = players["bank"]
        rows = extra["next_row"] + jnp.arange(keys.shape[0])
        bank = bank.at[rows].set(keys.astype(bank.dtype), mode="drop")
        following = extra["next_row"] + keys.shape[0]
        next_row = jnp.where(following < bank_size, following, 0)
        return {**players, "bank": bank}, {"next_row": next_row}

    return StartUp(
        Method(
            name="bank start-up",
            description="InfoNCE against a bank that fills with keys",
            moves={"encoder": "descend", "bank": "hold"},
            uses_target=True,
            init=lambda key: ({}, {"next_row": jnp.zeros((), jnp.int32)}),
            payoff=payoff,
            advance=advance,
            row_sharded={"bank": "bank_size"},
        ),
        examples=bank_size,
        epochs=epochs,
        target_momentum=target_momentum,
    )
