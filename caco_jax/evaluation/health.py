"""Diagnostics of representation collapse: rank, spread, alignment, uniformity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from caco_jax.evaluation import checks
from caco_jax.evaluation.neighbours import nearest_neighbours
from caco_jax.losses.contrast import l2_normalize

BLOCK = 1024


def effective_rank(features: Float[Array, "n f"]) -> float:
    """RankMe, the effective rank of features: the exponential of an entropy.

    exp(−Σ p log p) over the singular values p = σ/Σσ of the features, which are not
    centred: 1 for identical rows, at most min(N, F).

    Args:
        features: [N, F].

    Raises:
        ValueError: a feature is not finite, or all are zero.

    References:
        Garrido et al. 2022, arXiv:2210.02885; Roy and Vetterli 2007, "The effective
        rank".
    """
    values = np.linalg.svd(_matrix(features), compute_uv=False)
    if not values.any():
        raise ValueError("features: expected some that are not zero")
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def feature_deviation(features: Float[Array, "n f"]) -> float:
    """Standard deviation of normalised features, mean over dimensions, times √F.

    1 for directions spread evenly over the sphere, 0 for identical rows (collapse).

    References:
        Chen and He 2020 (SimSiam), arXiv:2011.10566, section 4.1.
    """
    unit = l2_normalize(checks.finite_floats(features))
    return float(jnp.std(unit, axis=0).mean()) * unit.shape[1] ** 0.5


def alignment(first: Float[Array, "n f"], second: Float[Array, "n f"]) -> float:
    """Alignment: mean squared distance between unit features of two views; 0 is best.

    Raises:
        ValueError: the shapes differ, or a feature is not finite.

    References:
        Wang and Isola 2020, arXiv:2005.10242, eq. 3 with α = 2.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(
            "expected two views of the same rows, got shapes "
            f"{np.shape(first)} and {np.shape(second)}"
        )
    one, other = (l2_normalize(checks.finite_floats(view)) for view in (first, second))
    return float(jnp.sum((one - other) ** 2, axis=1).mean())


def uniformity(
    features: Float[Array, "n f"], *, scale: float = 2.0, block_rows: int = BLOCK
) -> float:
    """Uniformity of unit features on the sphere: lower is better, 0 is collapse.

    The logarithm of the mean of exp(−scale·‖x − y‖²) over pairs of different rows. The
    matrix of their distances is never stored.

    Args:
        features: [N, F], N at least 2.
        scale: t of the Gaussian.
        block_rows: largest number of rows whose distances are in memory at once.

    Raises:
        ValueError: there is one row only, or a feature is not finite.

    References:
        Wang and Isola 2020, arXiv:2005.10242, eq. 4.
    """
    unit = l2_normalize(checks.finite_floats(features))
    if len(unit) < 2:
        raise ValueError(f"features: expected at least 2 rows, got {len(unit)}")
    return float(_uniformity(unit, scale, block=min(block_rows, len(unit))))


@functools.partial(jax.jit, static_argnames="block")
def _uniformity(unit: jax.Array, scale: float, *, block: int) -> jax.Array:
    def potential(row: jax.Array) -> jax.Array:
        cosines = jnp.matmul(unit, row, precision="highest")
        return jax.nn.logsumexp(2 * scale * (cosines - 1))  # ‖x − y‖² = 2 − 2 cos

    count = len(unit)
    everyone = jax.nn.logsumexp(jax.lax.map(potential, unit, batch_size=block))
    # Remove the pairs of a row with itself, at distance 0.
    others = everyone + jnp.log1p(-count * jnp.exp(-everyone))
    return others - jnp.log(float(count) * (count - 1))


def use_entropy(counts: Int[Array, " k"]) -> float:
    """Entropy of the use of a bank's entries as positives, divided by log K.

    Args:
        counts: [K], number of times that each entry was chosen.

    Returns:
        1 if all are chosen equally often, 0 if only one is chosen.

    Raises:
        ValueError: there are fewer than two entries, or none was ever chosen.
    """
    numbers = np.asarray(counts, np.float64)
    if len(numbers) < 2 or not numbers.sum():
        raise ValueError(
            f"counts: expected two entries or more, and one that was chosen, got "
            f"{len(numbers)} entries chosen {numbers.sum():g} times"
        )
    shares = numbers[numbers > 0] / numbers.sum()
    return float(-np.sum(shares * np.log(shares)) / np.log(len(numbers)))


def nearest_cosine(
    queries: Float[Array, "n d"], bank: Float[Array, "k d"]
) -> tuple[float, Int[np.ndarray, " n"]]:
    """Mean cosine similarity of queries to their nearest entries, and these entries.

    Raises:
        ValueError: the shapes do not fit, or a number is not finite.
    """
    similarity, index = nearest_neighbours(queries, bank, k=1, cosine=True)
    return float(similarity.mean()), np.asarray(index)[:, 0]


def _matrix(features: Float[Array, "n f"]) -> np.ndarray:
    return np.asarray(checks.finite_floats(features))
