"""A bank or a queue over a run's checkpoints."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from caco_jax.analysis import bank, snapshots
from caco_jax.analysis.bank import Tracking
from caco_jax.analysis.snapshots import Memory
from caco_jax.losses import l2_normalize
from caco_jax.nets.functions import Network
from caco_jax.runs.checkpoints import Workdir
from caco_jax.runs.pretraining import Pretraining


class Moment(NamedTuple):
    """The memory of one checkpoint, with the queries of its encoder.

    Attributes:
        step: training step.
        memory: the bank or queue.
        queries: [M, D] unit embeddings of all training images.
        tracking: nearest neighbours of the two, see `track`.
        kept_cosines: [K] cosine similarity of each row to itself at the previous
            checkpoint; None at the first.
    """

    step: int
    memory: Memory
    queries: Float[Array, "m d"]
    tracking: Tracking
    kept_cosines: Float[np.ndarray, " k"] | None

    def summary(self) -> dict[str, Any]:
        """Summary of the moment."""
        kept = self.kept_cosines
        return {
            "step": self.step,
            "entry_to_nearest_query": float(self.tracking.entries.mean()),
            "query_to_nearest_entry": float(self.tracking.queries.mean()),
            "unused_share": float(np.mean(self.tracking.uses == 0)),
            "with_itself_before": None if kept is None else float(kept.mean()),
        }


def read_history(files: Workdir, pretraining: Pretraining) -> list[Moment]:
    """The memory of every kept checkpoint, oldest first.

    Raises:
        UserError: the run's method has neither bank nor queue.
    """
    readout = snapshots.make_readout(pretraining)
    moments: list[Moment] = []
    for state in snapshots.read_states(files, pretraining):
        memory = snapshots.memory(pretraining, state)
        queries = jnp.asarray(readout(Network(state.players["encoder"], state.stats)))
        before = moments[-1].memory.rows if moments else None
        moments.append(
            Moment(
                step=int(state.step),
                memory=memory,
                queries=queries,
                tracking=bank.track(queries, memory.rows),
                kept_cosines=(
                    None if before is None else bank.cosine_of_rows(before, memory.rows)
                ),
            )
        )
    return moments


def cosine_by_age(
    ages: Int[np.ndarray, " k"], cosines: Float[np.ndarray, " k"]
) -> tuple[np.ndarray, np.ndarray]:
    """The ages of entries, and the mean cosine of the entries of each age."""
    found, index = np.unique(ages, return_inverse=True)
    return found, np.bincount(index, weights=cosines) / np.bincount(index)


class Focus(NamedTuple):
    """The weight of queries in each payoff, against their density.

    Attributes:
        densities: [M] log density of each query, by the centres of the kernels.
        weights: [M] weight of each query, by payoff.
        correlations: rank correlations, by density, then by payoff.
        dense_over_sparse: mean weight in the densest tenth divided by that in the
            sparsest, by density, then by payoff.
    """

    densities: dict[str, Float[np.ndarray, " m"]]
    weights: dict[str, Float[np.ndarray, " m"]]
    correlations: dict[str, dict[str, float]]
    dense_over_sparse: dict[str, dict[str, float]]


def focus_on_density(
    queries: Float[Array, "m d"],
    keys: Float[Array, "m d"],
    rows: Float[Array, "k d"],
    *,
    temperature: float,
    batch_size: int,
    bandwidth: float | None = None,
) -> Focus:
    """Compares the weights of both payoffs with two density estimates of the queries.

    Args:
        queries: [M, D] unit rows, in random order.
        keys: [M, D] unit rows, the keys of the same images; those of a batch are
            further candidates, as in AdCo's training.
        rows: [K, D] the bank.
        temperature: temperature of the bank.
        batch_size: number of queries that share their keys; an incomplete last batch is
            dropped.
        bandwidth: of the kernels, in units of cosine similarity; None for the
            temperature.

    Raises:
        ValueError: a number is not above 0, or there is no full batch.
    """
    if not 2 <= batch_size <= len(queries):
        raise ValueError(f"expected a batch of 2 to {len(queries)}, got {batch_size}")
    count = len(queries) // batch_size * batch_size
    queries, keys = queries[:count], keys[:count]
    width = temperature if bandwidth is None else bandwidth
    parts = [
        bank.query_weights(
            queries[first : first + batch_size],
            rows,
            temperature=temperature,
            keys=keys[first : first + batch_size],
        )
        for first in range(0, count, batch_size)
    ]
    posterior, likelihood = map(np.concatenate, zip(*parts, strict=True))
    weights = {"p(w|q)": posterior, "p(q|w)": likelihood}
    densities = {
        "among queries": np.asarray(bank.kernel_density(queries, bandwidth=width)),
        "among entries": np.asarray(
            bank.kernel_density(queries, l2_normalize(rows), bandwidth=width)
        ),
    }
    correlations, ratios = (
        {
            name: {payoff: measure(weight, logs) for payoff, weight in weights.items()}
            for name, logs in densities.items()
        }
        for measure in (bank.rank_correlation, _dense_over_sparse)
    )
    return Focus(densities, weights, correlations, ratios)


def _dense_over_sparse(weights: np.ndarray, densities: np.ndarray) -> float:
    ordered = weights[np.argsort(densities)]
    tenth = max(len(ordered) // 10, 1)
    return float(ordered[-tenth:].mean() / ordered[:tenth].mean())


def gallery_rows(
    moment: Moment, *, entries: int, images: int
) -> list[tuple[str, int, Int[np.ndarray, " m"]]]:
    """The most and least used entries, with the training images nearest to each.

    Unused entries are sorted by their distance to the queries; the farthest come last.

    Args:
        moment: a checkpoint.
        entries: number of most used and of least used entries.
        images: number of images for each entry.

    Returns:
        (what, uses, rows of the nearest training images), most used first.
    """
    tracking = moment.tracking
    order = np.lexsort((-tracking.entries, -tracking.uses))
    chosen: Sequence[tuple[str, np.ndarray]] = (
        ("most", order[:entries]),
        ("least", order[-entries:]),
    )
    cosines = np.asarray(l2_normalize(moment.memory.rows) @ moment.queries.T)
    return [
        (what, int(tracking.uses[entry]), np.argsort(-cosines[entry])[:images])
        for what, group in chosen
        for entry in group
    ]
