"""kNN classification of frozen features: cosine similarity and weighted votes."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from caco_jax.evaluation import checks
from caco_jax.evaluation.neighbours import QUERY_ROWS, nearest_neighbours


def neighbour_votes(
    similarity: Float[Array, "b k"],
    labels: Int[Array, "b k"],
    *,
    num_classes: int,
    temperature: float | None,
) -> Float[Array, "b c"]:
    """Sums of the neighbours' weights for each class, not normalised.

    Args:
        similarity: [B, k] similarities of the neighbours.
        labels: [B, k] their classes, in [0, `num_classes`).
        num_classes: C.
        temperature: a neighbour has weight exp(similarity / temperature); for None its
            weight is the similarity.

    Returns:
        [B, C] votes.

    Raises:
        ValueError: the temperature is not above 0.

    References:
        Wu et al. 2018 (InstDisc), arXiv:1805.01978, section 3.4.
    """
    weights = jnp.asarray(similarity)
    if temperature is not None:
        if not temperature > 0:
            raise ValueError(f"temperature: expected a number > 0, got {temperature}")
        weights = jnp.exp(weights / temperature)
    rows = jnp.arange(len(weights))[:, None]
    return (
        jnp.zeros((len(weights), num_classes), weights.dtype)
        .at[rows, labels]
        .add(weights)
    )


def knn_votes(
    features: Float[Array, "b f"],
    bank_features: Float[Array, "m f"],
    bank_labels: Int[Array, " m"],
    *,
    num_classes: int,
    k: int,
    temperature: float | None,
    block_size: int | None = None,
) -> Float[Array, "b c"]:
    """Votes [B, C] of the k nearest rows of the bank.

    The monitors' default is k 20 at temperature 0.2; InstDisc has k 200 at 0.07. See
    `nearest_neighbours` and `neighbour_votes` for arguments and errors.
    """
    similarity, votes = _neighbours(
        features,
        bank_features,
        bank_labels,
        num_classes=num_classes,
        k=k,
        block_size=block_size,
    )
    return neighbour_votes(
        similarity, votes, num_classes=num_classes, temperature=temperature
    )


def knn_predict(
    features: Float[Array, "b f"],
    bank_features: Float[Array, "m f"],
    bank_labels: Int[Array, " m"],
    *,
    num_classes: int,
    k: int,
    temperature: float | None,
    block_size: int | None = None,
) -> Int[Array, " b"]:
    """The class with the largest vote [B]; of equal votes the lowest class.

    Finite at any temperature: votes are scaled by that of the best neighbour.
    See `knn_votes` for arguments and errors.
    """
    similarity, votes = _neighbours(
        features,
        bank_features,
        bank_labels,
        num_classes=num_classes,
        k=k,
        block_size=block_size,
    )
    return _winners(similarity, votes, num_classes, temperature)


def knn_accuracy(
    features: Float[Array, "b f"],
    labels: Int[Array, " b"],
    bank_features: Float[Array, "m f"],
    bank_labels: Int[Array, " m"],
    *,
    num_classes: int,
    settings: Sequence[tuple[int, float | None]] = ((20, 0.2),),
    block_size: int | None = None,
) -> list[float]:
    """The kNN accuracy of queries, by cosine similarity and weighted votes.

    All settings share one search.

    Args:
        features: [B, F] queries; only directions matter.
        labels: [B] their classes.
        bank_features: [M, F] rows to search; only directions matter.
        bank_labels: [M] their classes.
        num_classes: C.
        settings: pairs of k and temperature (None: votes are similarities).
        block_size: rows of the bank compared at once.

    Returns:
        One fraction for each setting.

    Raises:
        ValueError: there is no setting, the arrays do not fit, or a k, a temperature
            or a label is out of range.
    """
    if not settings:
        raise ValueError("settings: expected at least one pair (k, temperature)")
    wanted = checks.fitting_labels(features, labels, num_classes=num_classes)
    similarity, votes = _neighbours(
        features,
        bank_features,
        bank_labels,
        num_classes=num_classes,
        k=max(k for k, _ in settings),
        block_size=block_size,
        cosine=True,
    )

    def accuracy(k: int, temperature: float | None) -> float:
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        won = _winners(similarity[:, :k], votes[:, :k], num_classes, temperature)
        return float(np.mean(np.asarray(won) == wanted))

    return [accuracy(k, temperature) for k, temperature in settings]


def _neighbours(
    features: jax.Array,
    bank_features: jax.Array,
    bank_labels: jax.Array,
    *,
    num_classes: int,
    k: int,
    block_size: int | None,
    cosine: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Similarities and classes of the nearest rows."""
    labels = checks.fitting_labels(bank_features, bank_labels, num_classes=num_classes)
    similarity, index = nearest_neighbours(
        features, bank_features, k=k, cosine=cosine, block_size=block_size
    )
    return similarity, jnp.asarray(labels)[index]


@functools.partial(jax.jit, static_argnames=("num_classes", "temperature"))
def _winners(
    similarity: jax.Array,
    labels: jax.Array,
    num_classes: int,
    temperature: float | None,
) -> jax.Array:
    if (
        temperature is not None
    ):  # a common factor of the row, so that exp cannot overflow
        similarity = similarity - similarity[:, :1]

    def of_query(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        weights, classes = (part[None] for part in row)
        votes = neighbour_votes(
            weights, classes, num_classes=num_classes, temperature=temperature
        )
        return jnp.argmax(votes[0])

    # In parts, because all votes need more memory than all neighbours.
    return jax.lax.map(of_query, (similarity, labels), batch_size=QUERY_ROWS)
