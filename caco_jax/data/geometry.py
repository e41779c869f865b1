"""Resampling an image on a moved grid, as small matrix products.

Interpolation is linear in the pixels, so each output pixel is a row of weights. Weights
made from the "hat" max(0, 1 - distance) and applied by a matrix product need no gather,
which accelerators are slow at, and are the same cost for every image in a batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _hat(positions: Float[Array, " p"], size: int) -> Float[Array, "p size"]:
    """Weight of each of `size` pixels at each position: linear interpolation."""
    pixels = jnp.arange(size, dtype=positions.dtype)
    return jnp.maximum(0, 1 - jnp.abs(positions[:, None] - pixels[None, :]))


def affine_resample(
    image: Float[Array, "h w c"],
    matrix: Float[Array, "2 2"],
    shift_pixels: Float[Array, "2"],
) -> Float[Array, "h w c"]:
    """Bilinear resampling on a grid rotated, scaled and shifted about the centre.

    Output pixel o, measured from the centre, reads the input at
    ``matrix @ o + shift_pixels``; what lies outside the image is 0. The cost is
    h·w·(h + w) weights, which suits small images only.

    Args:
        image: [H, W, C] floats.
        matrix: [2, 2] on (row, column); the identity moves nothing.
        shift_pixels: [2] rows and columns.
    """
    height, width, channels = image.shape
    rows = jnp.arange(height, dtype=image.dtype) - (height - 1) / 2
    columns = jnp.arange(width, dtype=image.dtype) - (width - 1) / 2
    grid = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij")).reshape(2, -1)
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2], image.dtype)
    source = (
        jnp.matmul(matrix, grid, precision=jax.lax.Precision.HIGHEST)
        + (centre + shift_pixels)[:, None]
    )  # [2, P]
    along_width = jnp.einsum(
        "pj,ijc->pic",
        _hat(source[1], width),
        image,
        precision=jax.lax.Precision.HIGHEST,
    )
    weights = _hat(source[0], height)[:, :, None]
    return jnp.sum(along_width * weights, axis=1).reshape(height, width, channels)
