"""Random augmentations on the device: pure functions of (key, image).

An image is floating point, [H, W, C] with values in [0, 1]; `jax.vmap` makes a batch of
it. What an operation draws and what it then does are apart: the drawing is here, the
arithmetic in `geometry` and `color`, where it is held against a reference at fixed
factors.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax.data import geometry

Range = tuple[float, float]


def random_affine(
    key: PRNGKeyArray,
    image: Float[Array, "h w c"],
    *,
    max_shift_pixels: float,
    max_rotation_degrees: float,
    scale_range: Range,
) -> Float[Array, "h w c"]:
    """Shifts, rotates and scales about the centre; bilinear, 0 outside.

    Args:
        key: of this image.
        image: [H, W, C].
        max_shift_pixels: each axis moves by up to this, uniformly.
        max_rotation_degrees: the angle is uniform within plus or minus this.
        scale_range: the content's size is multiplied by a uniform draw from here.
    """
    draws = jax.random.uniform(key, (4,), image.dtype)
    symmetric = 2 * draws - 1  # in [-1, 1)
    angle = symmetric[0] * jnp.deg2rad(max_rotation_degrees).astype(image.dtype)
    low, high = scale_range
    scale = low + (high - low) * draws[1]
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    matrix = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    return geometry.affine_resample(image, matrix, symmetric[2:] * max_shift_pixels)


def random_gamma(
    key: PRNGKeyArray, image: Float[Array, "h w c"], *, gamma_range: Range
) -> Float[Array, "h w c"]:
    """Raises values to a power drawn log-uniformly, so that 1/g is as likely as g."""
    low, high = gamma_range
    draw = jax.random.uniform(key, (), image.dtype)
    gamma = jnp.asarray(low, image.dtype) * (high / low) ** draw
    return jnp.clip(image, 0, 1) ** gamma


def random_noise(
    key: PRNGKeyArray, image: Float[Array, "h w c"], *, noise_std: float
) -> Float[Array, "h w c"]:
    """Adds Gaussian noise of the given standard deviation, and clips to [0, 1]."""
    noise = jax.random.normal(key, image.shape, image.dtype)
    return jnp.clip(image + noise_std * noise, 0, 1)
