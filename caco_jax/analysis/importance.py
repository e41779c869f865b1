"""Pairwise importance: the weights that a loss gives to pairs of images.

References: Tian 2022, arXiv:2201.12680.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from caco_jax import losses
from caco_jax.losses import checks
from caco_jax.losses.alpha_cl import Importance, Shape
from caco_jax.losses.contrast import similarities, without_diagonal

# The importance shapes of α-CL by name, as functions of a temperature; powers of d².
SHAPES: Mapping[str, Callable[[float], Shape]] = {
    "exponential": lambda t: losses.exponential_shape(power=2, temperature=t),
    "direct": lambda t: losses.exponential_shape(power=4, temperature=t),
    "inverse": lambda t: losses.inverse_shape(power=2, temperature=t, exponent=1),
    "quadratic": lambda t: losses.quadratic_shape(power=2, temperature=t),
    "logistic": lambda t: losses.logistic_shape(temperature=t),
    "uniform": lambda t: losses.uniform_shape(),
}


class ImportanceSummary(NamedTuple):
    """Summary of a matrix of pair weights.

    Attributes:
        same_class_share: share of the weight on pairs of one class ("false negatives");
            NaN without labels.
        hardest_share: share of the weight on the nearest pairs.
        effective_negatives: exp of the entropy of a row's weights, mean over rows.
    """

    same_class_share: float
    hardest_share: float
    effective_negatives: float


def check_alpha(alpha: Float[Array, "n n"]) -> None:
    """Checks pair weights given by the user.

    Raises:
        ValueError: not a square matrix of two rows or more, an entry that is not
            finite, or a negative one; the message names the first such row.
    """
    values = np.asarray(alpha)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 2:
        raise ValueError(
            f"alpha: expected [N, N] with N at least 2, got shape {values.shape}"
        )
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"alpha: expected floats, got {values.dtype}")
    for fault, at in (
        ("an entry that is not finite", ~np.isfinite(values)),
        ("a negative entry", values < 0),
    ):
        rows = np.flatnonzero(at.any(axis=1))
        if len(rows):
            raise ValueError(
                f"alpha: expected finite weights of at least 0, row {rows[0]} has "
                f"{fault}"
            )


def squared_distances(z: Float[Array, "n d"]) -> Float[Array, "n n"]:
    """½‖z_i - z_j‖² of unit rows."""
    return 1 - similarities(z, z)


def pair_weights(z: Float[Array, "n d"], importance: Importance) -> Array:
    """An importance's weights [N, N] of all pairs of unit rows; 0 on the diagonal."""
    weights = importance(without_diagonal(squared_distances(z)))
    n = len(z)
    # Row r skips column r: insert the diagonal.
    before = jnp.tri(n, n, k=-1, dtype=bool)
    left = jnp.pad(weights, ((0, 0), (0, 1)))
    right = jnp.pad(weights, ((0, 0), (1, 0)))
    return jnp.where(before, left, jnp.where(jnp.eye(n, dtype=bool), 0, right))


def summarise_importance(
    alpha: Float[Array, "n n"],
    squared: Float[Array, "n n"],
    labels: Int[np.ndarray, " n"] | None = None,
    *,
    hardest: float = 0.01,
) -> ImportanceSummary:
    """Summarises pair weights.

    Args:
        alpha: [N, N] weights, at least 0; the diagonal is ignored.
        squared: [N, N] squared distances of the pairs.
        labels: [N] classes, or None.
        hardest: the share of pairs, the nearest, that count as hardest.

    Raises:
        ValueError: weights that `check_alpha` refuses, or that are all zero.
    """
    check_alpha(alpha)
    weights = np.asarray(without_diagonal(jnp.asarray(alpha)), np.float64)
    near = np.asarray(without_diagonal(jnp.asarray(squared)))
    total = weights.sum()
    if total == 0:
        raise ValueError("alpha: expected some weight above 0, got none")
    count = math.ceil(hardest * near.size)
    nearest = np.argpartition(near, count - 1, axis=None)[:count]
    same = math.nan
    if labels is not None:
        same = float(weights[_same_class(labels)].sum() / total)
    return ImportanceSummary(
        same_class_share=same,
        hardest_share=float(weights.ravel()[nearest].sum() / total),
        effective_negatives=float(np.mean(effective_numbers(weights))),
    )


def chance_of_same_class(labels: Int[np.ndarray, " n"] | None) -> float:
    """Share of pairs of the same class; NaN without labels."""
    return math.nan if labels is None else float(_same_class(labels).mean())


def _same_class(labels: Int[np.ndarray, " n"]) -> np.ndarray:
    same = jnp.asarray(labels[:, None] == labels[None, :])
    return np.asarray(without_diagonal(same))


def weight_by_distance(
    alpha: Float[Array, "n n"], squared: Float[Array, "n n"], *, bins: int = 12
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]]:
    """Mean squared distance and mean relative weight in bins of equal size.

    Every bin has about the same number of pairs; the nearest come first.
    """
    near = np.asarray(without_diagonal(jnp.asarray(squared))).ravel()
    weights = np.asarray(without_diagonal(jnp.asarray(alpha))).ravel()
    parts = np.array_split(np.argsort(near, kind="stable"), bins)
    distances = np.array([near[part].mean() for part in parts])
    means = np.array([weights[part].mean() for part in parts])
    return distances, means / weights.mean()


def effective_numbers(weights: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " n"]:
    """exp(entropy) of the shares of each row; 0 for a row without weight."""
    sums = weights.sum(axis=1, keepdims=True)
    shares = np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.where(sums[:, 0] > 0, np.exp(-np.sum(shares * logs, axis=1)), 0.0)


class Weighing(NamedTuple):
    """Weights of one shape or member at one temperature (NaN if it has none)."""

    name: str
    temperature: float
    alpha: Float[Array, "n n"]


def weigh_pairs(
    z1: Float[Array, "n d"],
    z2: Float[Array, "n d"],
    *,
    temperatures: Sequence[float],
) -> Iterator[Weighing]:
    """Weights by every shape and every member, at every temperature that it has.

    Raises:
        ValueError: a temperature is not above 0.
    """
    for temperature in temperatures:
        checks.check_positive(temperature=temperature)
    for name, shape in SHAPES.items():
        for t in temperatures if name != "uniform" else [math.nan]:
            importance = losses.row_normalised(shape(t))
            yield Weighing(name, t, pair_weights(z1, importance))
    for name, make in losses.FAMILIES.items():
        tempered = name in ("info_nce", "soft_triplet")
        for t in temperatures if tempered else [math.nan]:
            family = make(temperature=t) if tempered else make()
            yield Weighing(
                f"member {name}", t, losses.pairwise_importance(z1, z2, family)
            )
