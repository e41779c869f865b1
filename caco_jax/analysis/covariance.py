"""Contrastive covariances of inputs, computed as in α-CL's released script.

References: Tian 2022, arXiv:2201.12680; github.com/facebookresearch/luckmatters.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from caco_jax import losses
from caco_jax.losses import alpha_published


class Covariances(NamedTuple):
    """Pair weights and the two covariances under them.

    Attributes:
        pair: [N, N] weights A of two images.
        own: [N] weights B of the two views of one.
        inter: [d, d] between images.
        intra: [d, d] between views of one image.
    """

    pair: Float[Array, "n n"]
    own: Float[Array, " n"]
    inter: Float[Array, "d d"]
    intra: Float[Array, "d d"]


def covariances(
    x1: Float[Array, "n d"],
    x2: Float[Array, "n d"],
    f1: Float[Array, "n k"],
    f2: Float[Array, "n k"],
    *,
    temperature: float,
) -> dict[str, Covariances]:
    """Contrastive covariances of inputs under the weights of their outputs.

    Sums over images, not means. "regular" has an l2 normalisation of the outputs;
    "no_proj" leaves its projection out of the gradient; "no_l2" has no normalisation.

    Args:
        x1: [N, d] floats, inputs, first views.
        x2: [N, d] floats, inputs, second views.
        f1: [N, k] floats, outputs of the first views, not normalised.
        f2: [N, k] floats, outputs of the second views, not normalised.
        temperature: above 0, dimensionless.

    Raises:
        ValueError: the shapes do not fit, or temperature is not above 0.
    """
    unit1, unit2 = (alpha_published.unit_without_projection(f) for f in (f1, f2))
    of_unit, of_raw = (
        alpha_published.published_pair_weights(f, temperature=temperature)
        for f in (unit1, f1)
    )
    y1, y2 = (_per_length(x, f) for x, f in ((x1, f1), (x2, f2)))
    projected = alpha_published.published_projected_covariances(
        y1, y2, unit1, unit2, of_unit
    )
    return {
        "regular": Covariances(*of_unit, *projected),
        "no_proj": Covariances(*of_unit, *_plain(y1, y2, of_unit)),
        "no_l2": Covariances(*of_raw, *_plain(x1, x2, of_raw)),
    }


def _plain(y1: Array, y2: Array, weights: tuple[Array, Array]) -> tuple[Array, Array]:
    pair, own = weights
    return losses.inter_covariance(y1, pair), losses.intra_covariance(y1, y2, own)


def _per_length(x: Float[Array, "n d"], f: Float[Array, "n k"]) -> Array:
    length = jnp.linalg.norm(f, axis=1, keepdims=True)
    return x / (length + alpha_published.LENGTH_OFFSET)
