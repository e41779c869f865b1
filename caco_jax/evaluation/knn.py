"""k nearest neighbours among frozen features, by cosine and weighted votes.

The bank of features is walked in blocks with a running top k, and so are the queries:
the matrix of all similarities is never stored. Rows are used as given, so hand in unit
rows (`losses.contrast.l2_normalize`) for cosines.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from caco_jax.evaluation import checks
from caco_jax.losses.contrast import l2_normalize

BLOCK = 4096  # rows of the bank scored at once
QUERIES = 1024  # queries scored at once

Found = tuple[jax.Array, jax.Array]  # similarities and indices


def nearest_neighbours(
    features: Float[Array, "b f"],
    bank_features: Float[Array, "m f"],
    *,
    k: int,
    block_size: int | None = None,
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """The k rows of the bank with the largest dot product, best first.

    Equal similarities come in the order of the bank. Sums are at least float32.

    Args:
        features: [B, F] queries; unit rows for cosines.
        bank_features: [M, F] rows to search.
        k: number of neighbours, of 1 to M.
        block_size: rows of the bank scored at once; 4096 where None.

    Returns:
        Similarities [B, k] and indices into the bank [B, k] (int32).

    Raises:
        ValueError: the shapes do not fit, or k or `block_size` is out of range.
    """
    if (
        features.ndim != 2
        or bank_features.ndim != 2
        or features.shape[1] != bank_features.shape[1]
    ):
        raise ValueError(
            "want features [B, F] and bank_features [M, F], got "
            f"{features.shape} and {bank_features.shape}"
        )
    if not 1 <= k <= len(bank_features):
        raise ValueError(
            f"k: want 1 to {len(bank_features)}, the rows of the bank, got {k}"
        )
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size: want at least 1, got {block_size}")
    block = min(block_size or BLOCK, len(bank_features))
    return _search(
        jnp.asarray(features),
        jnp.asarray(bank_features),
        k=k,
        block=block,
        queries=min(QUERIES, max(len(features), 1)),
    )


def neighbour_votes(
    similarity: Float[Array, "b k"],
    labels: Int[Array, "b k"],
    *,
    num_classes: int,
    temperature: float | None,
) -> Float[Array, "b c"]:
    """Sums of the neighbours' weights by class, not normalised.

    Args:
        similarity: [B, k] similarities of the neighbours.
        labels: [B, k] their classes, in [0, `num_classes`).
        num_classes: C.
        temperature: a neighbour weighs exp(similarity / temperature); where None, its
            similarity itself.

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
            raise ValueError(f"temperature: want a number > 0, got {temperature}")
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
    bank_features, bank_labels = checks.labelled(
        bank_features, bank_labels, num_classes=num_classes
    )
    similarity, index = nearest_neighbours(
        features, bank_features, k=k, block_size=block_size
    )
    return neighbour_votes(
        similarity,
        bank_labels[index],
        num_classes=num_classes,
        temperature=temperature,
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
    """The class with the most votes [B]; the lowest one where votes are equal.

    Finite at any temperature: the votes of a row are scaled by its best neighbour's.
    See `knn_votes` for arguments and errors.
    """
    bank_features, bank_labels = checks.labelled(
        bank_features, bank_labels, num_classes=num_classes
    )
    similarity, index = nearest_neighbours(
        features, bank_features, k=k, block_size=block_size
    )
    return _winners(similarity, bank_labels[index], num_classes, temperature)


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
    """Share of queries whose class wins the vote of their neighbours by cosine.

    All settings share one search.

    Args:
        features: [B, F] queries; only directions matter.
        labels: [B] their classes.
        bank_features: [M, F] rows to search; only directions matter.
        bank_labels: [M] their classes.
        num_classes: C.
        settings: pairs of k and temperature (None: votes are similarities).
        block_size: rows of the bank scored at once.

    Returns:
        One fraction a setting.

    Raises:
        ValueError: there is no setting, the arrays do not fit, or a k, a temperature
            or a label is out of range.
    """
    if not settings:
        raise ValueError("settings: want at least one pair (k, temperature)")
    features, labels = checks.labelled(features, labels, num_classes=num_classes)
    bank_features, bank_labels = checks.labelled(
        bank_features, bank_labels, num_classes=num_classes
    )
    similarity, index = nearest_neighbours(
        l2_normalize(features),
        l2_normalize(bank_features),
        k=max(k for k, _ in settings),
        block_size=block_size,
    )
    votes = bank_labels[index]

    def accuracy(k: int, temperature: float | None) -> float:
        if k < 1:
            raise ValueError(f"k: want at least 1, got {k}")
        won = _winners(similarity[:, :k], votes[:, :k], num_classes, temperature)
        return float(np.mean(np.asarray(won == labels)))

    return [accuracy(k, temperature) for k, temperature in settings]


@functools.partial(jax.jit, static_argnames=("num_classes", "temperature"))
def _winners(
    similarity: jax.Array,
    labels: jax.Array,
    num_classes: int,
    temperature: float | None,
) -> jax.Array:
    if temperature is not None:  # a common factor for the row: exp cannot overflow
        similarity = similarity - similarity[:, :1]
    votes = neighbour_votes(
        similarity, labels, num_classes=num_classes, temperature=temperature
    )
    return jnp.argmax(votes, axis=1)


@functools.partial(jax.jit, static_argnames=("k", "block", "queries"))
def _search(
    features: jax.Array, bank: jax.Array, *, k: int, block: int, queries: int
) -> Found:
    accumulate = jnp.result_type(features, bank, jnp.float32)
    rows = len(bank)
    blocks = _in_blocks(bank, block)
    starts = jnp.arange(len(blocks), dtype=jnp.int32) * block

    def search(few: jax.Array) -> Found:
        def merge(
            best: Found, piece: tuple[jax.Array, jax.Array]
        ) -> tuple[Found, None]:
            values, start = piece  # [M', F] rows and the index of the first
            index = start + jnp.arange(block, dtype=jnp.int32)
            scores = jnp.einsum(
                "qf,mf->qm",
                few,
                values,
                precision="highest",
                preferred_element_type=accumulate,
            )
            scores = jnp.where(index[None] < rows, scores, -jnp.inf)
            # The best so far come first: top_k prefers them in a tie, as they are
            # the earlier rows.
            pool = jnp.concatenate([best[0], scores], axis=1)
            names = jnp.concatenate(
                [best[1], jnp.broadcast_to(index[None], scores.shape)], axis=1
            )
            top, place = jax.lax.top_k(pool, k)
            return (top, jnp.take_along_axis(names, place, axis=1)), None

        nothing = (
            jnp.full((len(few), k), -jnp.inf, accumulate),
            jnp.full((len(few), k), rows, jnp.int32),
        )
        return jax.lax.scan(merge, nothing, (blocks, starts))[0]

    found = jax.lax.map(search, _in_blocks(features, queries))
    similarity, index = (part.reshape(-1, k)[: len(features)] for part in found)
    return similarity, index


def _in_blocks(rows: jax.Array, size: int) -> jax.Array:
    """[ceil(n / size), size, ...], the last block filled up with zeros."""
    missing = -len(rows) % size
    filled = jnp.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))
    return filled.reshape(-1, size, *rows.shape[1:])
