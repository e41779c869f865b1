"""Analysis of a bank or queue: tracking of queries, use of entries, pair weights.

Scores are dense here, [N, K]: for analysis, not for training.

References: Hu et al. 2021, arXiv:2011.08435, section 4; Wang et al. 2022,
arXiv:2203.14370.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import stats

from caco_jax.analysis.importance import effective_numbers
from caco_jax.losses import checks, l2_normalize, nearest_entries
from caco_jax.losses.contrast import matmul, similarities


class Part(NamedTuple):
    """One part of a bank's gradient.

    Attributes:
        weights: [N, K] c_nj of each pair of query and entry; 0 for pairs of the other
            part.
        move: [K, D] contribution of the part to the ascent direction.
    """

    weights: Float[Array, "n k"]
    move: Float[Array, "k d"]


class BankMoves(NamedTuple):
    """The bank's ascent direction, split into its cooperative and adversarial part.

    Attributes:
        cooperative: through entries as positives: it helps the encoder.
        adversarial: through entries as negatives: it opposes the encoder.
    """

    cooperative: Part
    adversarial: Part


def bank_moves(
    queries: Float[Array, "n d"],
    bank: Float[Array, "k d"],
    *,
    temperature: float,
    keys: Float[Array, "n d"] | None = None,
    batch_keys: bool = True,
    positives: Int[Array, " n"] | None = None,
) -> BankMoves:
    """The two parts of a bank's move, whose sum is the gradient of its payoff.

    A query and an entry are a pair, as two images are: the weight is c_nj = 1 - p_nj if
    entry j is the positive of query n (cooperative), else p_nj (adversarial), with p
    the softmax over the candidates. Give `positives` for CaCo, `keys` for AdCo, whose
    positives are no entries: its move is adversarial alone.

    Args:
        queries: [N, D] floats, unit rows.
        bank: [K, D] floats, raw rows.
        temperature: temperature of the bank, above 0.
        keys: [N, D] floats, unit rows, further candidates; None for none.
        batch_keys: whether the candidates of a query are all keys or only its own.
        positives: [N] indices of the positive entries; None if no entry is a positive.

    Raises:
        ValueError: temperature is not above 0, or both or neither of keys and
            positives are given.
    """
    checks.check_positive(temperature=temperature)
    if (keys is None) == (positives is None):
        raise ValueError("expected either keys (AdCo) or positives (CaCo)")
    probabilities = entry_probabilities(
        queries, bank, temperature=temperature, keys=keys, batch_keys=batch_keys
    )
    own = jnp.zeros_like(probabilities, dtype=bool)
    if positives is not None:
        own = jax.nn.one_hot(positives, len(bank), dtype=jnp.bool_)
    cooperative = jnp.where(own, 1 - probabilities, 0)
    adversarial = jnp.where(own, 0, probabilities)
    return BankMoves(
        *(
            Part(weights, _toward_queries(weights, queries, bank, temperature))
            for weights in (cooperative, adversarial)
        )
    )


class BankSummary(NamedTuple):
    """Summary of a bank's pair weights and moves.

    Attributes:
        entries: K.
        effective_entries: exp of the entropy of the entries' importance.
        cooperative_norm: Euclidean norm of the cooperative part of the whole move.
        adversarial_norm: of the adversarial part.
    """

    entries: int
    effective_entries: float
    cooperative_norm: float
    adversarial_norm: float


def summarise_moves(moves: BankMoves) -> BankSummary:
    """Summary of the moves."""
    norms = [float(jnp.linalg.norm(part.move)) for part in moves]
    weights = moves.cooperative.weights + moves.adversarial.weights
    entries = np.asarray(jnp.sum(weights, axis=0))
    return BankSummary(
        entries=len(entries),
        effective_entries=float(effective_numbers(entries[None, :])[0]),
        cooperative_norm=norms[0],
        adversarial_norm=norms[1],
    )


def entry_probabilities(
    queries: Float[Array, "n d"],
    bank: Float[Array, "k d"],
    *,
    temperature: float,
    keys: Float[Array, "m d"] | None = None,
    batch_keys: bool = True,
) -> Float[Array, "n k"]:
    """p(w_j | q_n): the softmax over entries, and over keys where they are given.

    Each query has only its own key as a candidate, in its row, unless `batch_keys`.
    """
    scores = similarities(queries, l2_normalize(bank))
    if keys is not None and batch_keys:
        scores = jnp.concatenate([similarities(queries, keys), scores], axis=1)
    elif keys is not None:
        own = jnp.sum(queries * keys, axis=1, keepdims=True)
        scores = jnp.concatenate([own, scores], axis=1)
    return jax.nn.softmax(scores / temperature, axis=1)[:, -len(bank) :]


def _toward_queries(
    weights: Float[Array, "n k"], queries: Array, bank: Array, temperature: float
) -> Float[Array, "k d"]:
    """Σ_n weights_nj (q_n - (q_n·w_j) w_j) / (N τ ‖W_j‖)."""
    unit = l2_normalize(bank)
    pull = matmul(weights.T, queries)
    tangent = pull - jnp.sum(pull * unit, axis=1, keepdims=True) * unit
    lengths = jnp.linalg.norm(bank, axis=1, keepdims=True)
    return tangent / (len(queries) * temperature * lengths)


# Tracking and use.


class Tracking(NamedTuple):
    """Cosine similarities of nearest neighbours between a memory and the queries.

    Attributes:
        entries: [K] of each entry to its nearest query.
        queries: [N] of each query to its nearest entry.
        uses: [K] number of queries that each entry is nearest to.
    """

    entries: Float[np.ndarray, " k"]
    queries: Float[np.ndarray, " n"]
    uses: Int[np.ndarray, " k"]


def track(queries: Float[Array, "n d"], memory: Float[Array, "k d"]) -> Tracking:
    """How closely a memory follows unit queries, and the use of its entries."""
    cosines = np.asarray(similarities(queries, l2_normalize(memory)))
    nearest = np.asarray(nearest_entries(queries, memory))
    return Tracking(
        entries=cosines.max(axis=0),
        queries=cosines.max(axis=1),
        uses=np.bincount(nearest, minlength=len(memory)),
    )


def cosine_of_rows(
    before: Float[Array, "k d"], after: Float[Array, "k d"]
) -> Float[np.ndarray, " k"]:
    """Cosine similarity of each row of a memory to itself at a later time."""
    return np.asarray(jnp.sum(l2_normalize(before) * l2_normalize(after), axis=1))


# Density.


class QueryWeights(NamedTuple):
    """Weight of each query in the bank's move, mean over entries; rows sum to 1.

    Attributes:
        posterior: [N] by p(w | q), AdCo's payoff.
        likelihood: [N] by p(q | w), the alternative: p(q), the queries' density by
            the bank.
    """

    posterior: Float[Array, " n"]
    likelihood: Float[Array, " n"]


def query_weights(
    queries: Float[Array, "n d"],
    bank: Float[Array, "k d"],
    *,
    temperature: float,
    keys: Float[Array, "n d"] | None = None,
) -> QueryWeights:
    """The weight of each query in two payoffs of the bank.

    AdCo ascends Σ_n log Σ_j exp(q_n·w_j / τ): query n pulls entry j with p(w_j | q_n).
    The alternative ascends Σ_j log Σ_n exp(w_j·q_n / τ), which pulls with p(q_n | w_j).
    By Bayes' rule p(w_j | q_n) = p(q_n | w_j) p(w_j) / p(q_n), with p(q_n) proportional
    to Σ_j exp(q_n·w_j / τ), the kernel density estimate at the entries
    (`kernel_density`): among the queries of an entry AdCo's payoff gives more weight to
    those in sparse regions.

    Args:
        queries: [N, D] floats, unit rows.
        bank: [K, D] floats, raw rows.
        temperature: temperature of the bank, above 0.
        keys: [N, D] floats, unit rows, further candidates; None for none.

    Raises:
        ValueError: temperature is not above 0.
    """
    checks.check_positive(temperature=temperature)
    posterior = jnp.sum(
        entry_probabilities(queries, bank, temperature=temperature, keys=keys), axis=1
    )
    scores = similarities(queries, l2_normalize(bank)) / temperature
    likelihood = jnp.sum(jax.nn.softmax(scores, axis=0), axis=1)
    return QueryWeights(
        posterior / jnp.sum(posterior), likelihood / jnp.sum(likelihood)
    )


def kernel_density(
    queries: Float[Array, "n d"],
    centres: Float[Array, "m d"] | None = None,
    *,
    bandwidth: float,
) -> Float[Array, " n"]:
    """Log density of each unit row, by a kernel density estimate on cosines.

    The mean of kernels exp(cosine / bandwidth), without normalisation: for ranks only.

    Args:
        queries: [N, D] floats, unit rows.
        centres: [M, D] floats, unit rows, the centres of the kernels; None for the
            queries themselves, without the kernel of the same query.
        bandwidth: above 0, in units of cosine similarity.

    Raises:
        ValueError: bandwidth is not above 0, or there is no kernel for a row.
    """
    checks.check_positive(bandwidth=bandwidth)
    others = centres is None
    centres = queries if centres is None else centres
    if len(centres) < 1 + others:
        raise ValueError("expected at least two queries, or one centre, got fewer")
    scores = similarities(queries, centres) / bandwidth
    if others:
        scores = jnp.where(jnp.eye(len(queries), dtype=bool), -jnp.inf, scores)
    return jax.nn.logsumexp(scores, axis=1) - math.log(len(centres) - others)


def rank_correlation(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"]
) -> float:
    """Spearman's rank correlation of two arrays."""
    return float(stats.spearmanr(np.asarray(first), np.asarray(second)).statistic)
