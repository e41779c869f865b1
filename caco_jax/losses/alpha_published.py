"""The computations of α-CL's released code that differ from the paper.

Kept so that published numbers can be reproduced; use the plain names for new work.

References: Tian 2022, arXiv:2201.12680; github.com/facebookresearch/luckmatters.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from caco_jax.losses import checks
from caco_jax.losses.alpha import intra_covariance
from caco_jax.losses.alpha_cl import Importance, Shape, candidate_levels, per_sample
from caco_jax.losses.contrast import accumulator, matmul, similarities

LENGTH_OFFSET = 1e-8  # what the released code adds to lengths and normalisers


def published_simplex_assignment(
    distances: Float[Array, "r m"], *, temperature: float
) -> Float[Array, "r m"]:
    """`simplex_assignment` with the level one entry too late.

    The level is the one of keeping one entry more, and of keeping the nearest only
    where all are kept: rows sum to 1 or more.
    """
    levels, kept = candidate_levels(distances, temperature=temperature)
    late = kept % levels.shape[1]  # one past the end comes round to the first
    level = jnp.take_along_axis(levels, late[:, None], axis=1)
    return jnp.maximum(level - distances, 0) / temperature


def published_per_sample(shape: Shape) -> Importance:
    """`per_sample` divided by the number of rows once more."""
    average_one = per_sample(shape)
    return lambda squared: average_one(squared) / squared.shape[0]


def unit_without_projection(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Returns x / (‖x‖ + 1e-8); its gradient treats the norm as a constant.

    `l2_normalize` differentiates the length too, which removes the radial part.
    """
    held = jax.lax.stop_gradient(x)
    length = jnp.sqrt(jnp.sum(held * held, axis=-1, keepdims=True))
    return x / (length + LENGTH_OFFSET)


def published_pair_weights(
    f: Float[Array, "n d"], *, temperature: float
) -> tuple[Float[Array, "n n"], Float[Array, " n"]]:
    """The released script's pair weights A and positive weights B = 1 - A_ii.

    Entry (i, j) is divided by the normaliser of sample j where α_ij has that of i, so
    rows do not sum to 1; and a similarity of 0 stands where the positive's belongs.

    Args:
        f: [N, D] floats, embeddings, normalised by the caller or not.
        temperature: above 0, dimensionless.

    Returns:
        A [N, N] with a diagonal of 0, and B [N].

    Raises:
        ValueError: f is not a matrix, or temperature is not above 0.
        TypeError: f does not hold floats.
    """
    checks.check_embeddings(f=f)
    checks.check_positive(temperature=temperature)
    own = jnp.eye(f.shape[0], dtype=bool)
    scores = jnp.where(own, 0, similarities(f, f))
    scores = scores - jnp.max(scores, axis=1, keepdims=True)
    raw = jnp.exp(scores / temperature)
    weights = raw / (jnp.sum(raw, axis=1) + LENGTH_OFFSET)[None, :]
    return jnp.where(own, 0, weights), 1 - jnp.diagonal(weights)


def published_projected_covariances(
    x1: Float[Array, "n d"],
    x2: Float[Array, "n d"],
    f1: Float[Array, "n k"],
    f2: Float[Array, "n k"],
    weights: tuple[Float[Array, "n n"], Float[Array, " n"]],
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    """The script's inter and intra covariance behind an l2 normalisation.

    Outer products of a sample with itself are weighted by the similarity of its
    pair: the gradient through the normalisation loses its radial part. Without that
    (`inter_covariance`, `intra_covariance`) they have weight 1.

    Args:
        x1: [N, d] floats, inputs of the first views over the length of their output.
        x2: [N, d] floats, the same of the second views.
        f1: [N, k] floats, unit outputs of the first views.
        f2: [N, k] floats, unit outputs of the second views.
        weights: A and B of `published_pair_weights`.

    Returns:
        C_inter and C_intra, each [d, d].
    """
    pair, own = weights
    dtype = accumulator(x1, x2, f1, f2, pair)
    x1, x2 = x1.astype(dtype), x2.astype(dtype)
    both = pair + pair.T
    degrees = jnp.sum(both * similarities(f1, f1), axis=1)  # `both` is 0 for i = j
    inter = _weighted(x1, degrees) - matmul(x1.T, matmul(both, x1))
    # 1 more or less of the squares is intra_covariance; the rest is their shortfall.
    shortfall = own * (jnp.sum(f1 * f2, axis=1) - 1)
    intra = intra_covariance(x1, x2, own)
    return inter, intra + _weighted(x1, shortfall) + _weighted(x2, shortfall)


def _weighted(x: Float[Array, "n d"], weights: Float[Array, " n"]) -> jax.Array:
    """Σ_i weights_i x_i x_iᵀ."""
    return matmul(x.T, weights[:, None] * x)
