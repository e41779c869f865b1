"""α-CL with directly chosen pair weights; the encoder ascends their energy.

An importance maps the squared distances of each view to its negatives, [2N, 2N - 2],
to weights of that shape. It is composed of a *shape* (squared distances -> logarithms
of raw weights) and a normalisation of it:

    importance = row_normalised(exponential_shape(power=4, temperature=0.5))

Logarithms, so that a temperature at which every raw weight underflows still
normalises. Weights are constants for every gradient, unless a loss is told that they
are not.

References: Tian 2022, arXiv:2201.12680, section 6.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from caco_jax.losses import checks
from caco_jax.losses.contrast import (
    check_pairs,
    l2_normalize,
    matmul,
    one_against,
    similarities,
    split_pairs,
    stack_views,
)

Rowwise = Callable[[Float[Array, "r m"]], Float[Array, "r m"]]
Shape = Rowwise  # squared distances -> logarithms of weights
Importance = Rowwise  # squared distances -> weights
Normalise = Callable[[Float[Array, "n d"]], Float[Array, "n d"]]


# Shapes. `power` is p in d^p, so that power 2 is the squared distance itself.


def exponential_shape(*, power: float, temperature: float) -> Shape:
    """exp(-d^p / τ)."""
    checks.check_positive(power=power, temperature=temperature)
    return lambda squared: -_to_power(squared, power) / temperature


def inverse_shape(*, power: float, temperature: float, exponent: float) -> Shape:
    """(d^p + τ)^(-exponent)."""
    checks.check_positive(power=power, temperature=temperature, exponent=exponent)
    return lambda squared: -exponent * jnp.log(_to_power(squared, power) + temperature)


def quadratic_shape(
    *,
    power: float,
    temperature: float,
    assign: Callable[..., jax.Array] | None = None,
) -> Shape:
    """max(level - d^p, 0) / τ, the level such that each row sums to 1.

    `assign(distances, temperature=...)` makes the weights; `simplex_assignment` if
    none is given.
    """
    checks.check_positive(power=power, temperature=temperature)
    assign = assign or simplex_assignment

    def log_weights(squared: jax.Array) -> jax.Array:
        weights = assign(_to_power(squared, power), temperature=temperature)
        some = weights > 0  # the others have no slope, which a logarithm would give
        return jnp.where(some, jnp.log(jnp.where(some, weights, 1)), -jnp.inf)

    return log_weights


def logistic_shape(*, temperature: float) -> Shape:
    """Weights h / (1 + h) / (τ M): h = exp(-d² / τ), M the number of negatives."""
    checks.check_positive(temperature=temperature)
    return lambda squared: (
        -jax.nn.softplus(squared / temperature)
        - jnp.log(jnp.asarray(temperature * squared.shape[1], squared.dtype))
    )


def uniform_shape() -> Shape:
    """1 / M with M the number of negatives."""
    return lambda squared: jnp.full_like(
        squared, -jnp.log(jnp.asarray(squared.shape[1], squared.dtype))
    )


# Normalisations: shapes become importances.


def unnormalised(shape: Shape) -> Importance:
    """The raw weights."""
    return lambda squared: jnp.exp(shape(squared))


def row_normalised(shape: Shape, *, epsilon: float = 0.0) -> Importance:
    """Each row divided by its sum plus epsilon per entry."""
    checks.check_at_least(0, epsilon=epsilon)

    def importance(squared: jax.Array) -> jax.Array:
        logs = shape(squared)
        extra = jnp.log(jnp.asarray(epsilon * logs.shape[1], logs.dtype))
        sums = jax.nn.logsumexp(logs, axis=1, keepdims=True)
        return jnp.exp(logs - jnp.logaddexp(sums, extra))

    return importance


def per_sample(shape: Shape) -> Importance:
    """One weight per row, its share of all raw weights, so that rows average to 1.

    (The authors' code divides by the number of rows once more: see
    `alpha_published`.)
    """

    def importance(squared: jax.Array) -> jax.Array:
        logs = shape(squared)
        shares = jax.nn.softmax(jax.nn.logsumexp(logs, axis=1))
        return jnp.broadcast_to((shares * logs.shape[0])[:, None], logs.shape)

    return importance


def low_rank(shape: Shape, *, rank: int) -> Importance:
    """The raw weights truncated to their `rank` largest singular values."""
    checks.check_at_least(1, rank=rank)

    def importance(squared: jax.Array) -> jax.Array:
        left, values, right = jnp.linalg.svd(
            jnp.exp(shape(squared)), full_matrices=False
        )
        return matmul(left[:, :rank] * values[None, :rank], right[:rank])

    return importance


def given_weights(weights: Float[Array, "r m"]) -> Importance:
    """Given weights, which do not depend on the distances."""
    return lambda squared: weights.astype(squared.dtype)


def direct_importance(*, power: float = 4.0, temperature: float = 0.5) -> Importance:
    """α-CL-direct: exp(-d^p / τ), each row divided by its sum."""
    return row_normalised(exponential_shape(power=power, temperature=temperature))


def simplex_assignment(
    distances: Float[Array, "r m"], *, temperature: float
) -> Float[Array, "r m"]:
    """The rows w = max(level - d, 0) / τ that sum to 1.

    This is the projection of -d / τ onto the simplex, and the min player's answer to
    the regulariser -(τ / 2) Σ w². (The authors' code takes a level one too late: see
    `alpha_published`.)
    """
    levels, kept = candidate_levels(distances, temperature=temperature)
    level = jnp.take_along_axis(levels, kept[:, None] - 1, axis=1)
    return jnp.maximum(level - distances, 0) / temperature


def candidate_levels(
    distances: Float[Array, "r m"], *, temperature: float
) -> tuple[Float[Array, "r m"], Float[Array, " r"]]:
    """The level if the k nearest were kept, for every k, and how many to keep."""
    nearest = jnp.sort(distances, axis=1)
    count = jnp.arange(1, nearest.shape[1] + 1, dtype=nearest.dtype)[None, :]
    levels = (jnp.cumsum(nearest, axis=1) + temperature) / count
    return levels, jnp.sum(nearest < levels, axis=1)


# Losses.


class LossTerms(NamedTuple):
    """The two terms of a loss: between images, and between the views of one image."""

    inter: Float[Array, ""]
    intra: Float[Array, ""]


def alpha_cl_loss(
    z1: Float[Array, "n d"],
    z2: Float[Array, "n d"],
    *,
    importance: Importance,
    intra_weight: float = 0.0,
    normalise: Normalise = l2_normalize,
    constant_weights: bool = True,
) -> Float[Array, ""]:
    """Minus the energy of directly chosen pair weights, for the encoder to descend.

    Over the 2N stacked views, with d_r+² to the twin, d_rc² to the negatives and
    w = stop_gradient(importance(d²)):
    ``mean_r Σ_c w_rc (d_r+² - d_rc²) + intra_weight mean_r d_r+² Σ_c w_rc``.

    Args:
        z1: [N, D] floats, embeddings of the first views.
        z2: [N, D] floats, embeddings of the second views of the same images.
        importance: squared distances [2N, 2N - 2] -> weights of that shape;
            `direct_importance()` is the paper's.
        intra_weight: at least 0, the extra weight of the positive pairs.
        normalise: what is done to the rows first. Squared distances are 1 - the dot
            products of its results: with unit rows, half the squared distances.
        constant_weights: False: w = importance(d²), and the gradient flows through it.

    Returns:
        The loss, at least float32.

    Raises:
        ValueError: the shapes differ, there are fewer than two pairs, intra_weight is
            below 0, or the importance returns another shape.
        TypeError: an array does not hold floats.

    References:
        Tian 2022, arXiv:2201.12680, section 6.
    """
    checks.check_at_least(0, intra_weight=intra_weight)
    terms = alpha_cl_terms(
        z1,
        z2,
        importance=importance,
        normalise=normalise,
        constant_weights=constant_weights,
    )
    return terms.inter + jnp.asarray(intra_weight, terms.intra.dtype) * terms.intra


def alpha_cl_terms(
    z1: Float[Array, "n d"],
    z2: Float[Array, "n d"],
    *,
    importance: Importance,
    normalise: Normalise = l2_normalize,
    constant_weights: bool = True,
) -> LossTerms:
    """The two terms of `alpha_cl_loss`, the second without its weight."""
    positive, negatives = _squared_distances(z1, z2, normalise)
    weights = _weights(negatives, importance, constant=constant_weights)
    inter = jnp.sum(weights * (positive[:, None] - negatives), axis=1)
    intra = positive * jnp.sum(weights, axis=1)
    return LossTerms(jnp.mean(inter), jnp.mean(intra))


def alpha_cl_weights(
    z1: Float[Array, "n d"],
    z2: Float[Array, "n d"],
    *,
    importance: Importance,
    normalise: Normalise = l2_normalize,
) -> Float[Array, "2*n 2*n-2"]:
    """The weights of `alpha_cl_loss`: rows are views [z1; z2], columns negatives."""
    return _weights(_squared_distances(z1, z2, normalise)[1], importance)


def nt_xent_with_intra(
    z1: Float[Array, "n d"],
    z2: Float[Array, "n d"],
    *,
    temperature: float,
    intra_weight: float = 0.0,
    constants: tuple[float, ...] = (),
    normalise: Normalise = l2_normalize,
) -> Float[Array, ""]:
    """The InfoNCE baseline of α-CL: NT-Xent plus a term on the positive pairs.

    ``(NT-Xent - intra_weight mean_r s_r+ / temperature) / (1 + intra_weight)``.

    Args:
        z1: [N, D] floats, embeddings of the first views.
        z2: [N, D] floats, embeddings of the second views of the same images.
        temperature: above 0, dimensionless.
        intra_weight: at least 0, the extra weight of the positive pairs.
        constants: similarities of further negatives that are the same for every view.
        normalise: what is done to the rows before their dot products.

    Returns:
        The mean loss over the 2N views in nats, at least float32.

    Raises:
        ValueError: the shapes differ, there are fewer than two pairs, temperature is
            not above 0, or intra_weight is below 0.
        TypeError: an array does not hold floats.
    """
    checks.check_at_least(0, intra_weight=intra_weight)
    terms = nt_xent_terms(
        z1, z2, temperature=temperature, constants=constants, normalise=normalise
    )
    weight = jnp.asarray(intra_weight, terms.intra.dtype)
    return (terms.inter + weight * terms.intra) / (1 + weight)


def nt_xent_terms(
    z1: Float[Array, "n d"],
    z2: Float[Array, "n d"],
    *,
    temperature: float,
    constants: tuple[float, ...] = (),
    normalise: Normalise = l2_normalize,
) -> LossTerms:
    """The two terms of `nt_xent_with_intra`, before they are weighted."""
    checks.check_positive(temperature=temperature)
    positive, negatives = _squared_distances(z1, z2, normalise)
    scale = jnp.asarray(temperature, positive.dtype)
    positive, negatives = (1 - positive) / scale, (1 - negatives) / scale
    fixed = jnp.asarray(constants, negatives.dtype)[None, :] / scale
    fixed = jnp.broadcast_to(fixed, (negatives.shape[0], len(constants)))
    candidates = jnp.concatenate([negatives, fixed], axis=1)
    return LossTerms(jnp.mean(one_against(positive, candidates)), -jnp.mean(positive))


def _squared_distances(
    z1: jax.Array, z2: jax.Array, normalise: Normalise
) -> tuple[Float[Array, " 2*n"], Float[Array, "2*n 2*n-2"]]:
    """1 - cosine similarity of every view with its positive, and with its negatives."""
    check_pairs(z1, z2)
    views = normalise(stack_views(z1, z2))
    return split_pairs(1 - similarities(views, views))


def _weights(
    squared: Float[Array, "r m"], importance: Importance, *, constant: bool = True
) -> jax.Array:
    """The importance of given distances, as constants or not."""
    weights = importance(jax.lax.stop_gradient(squared) if constant else squared)
    if weights.shape != squared.shape:
        raise ValueError(
            "importance: expected one weight per negative, shape "
            f"{tuple(squared.shape)}, got {tuple(weights.shape)}"
        )
    return jax.lax.stop_gradient(weights) if constant else weights


def _to_power(squared: Float[Array, "r m"], power: float) -> Float[Array, "r m"]:
    """d^power from d². Only whole powers of d² exist where rounding makes it < 0."""
    exponent = power / 2
    if float(exponent).is_integer():
        return squared ** int(exponent)
    some = squared > 0  # a power below 1 has an infinite slope at 0
    return jnp.where(some, jnp.where(some, squared, 1) ** exponent, 0)
