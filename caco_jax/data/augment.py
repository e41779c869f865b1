"""Random augmentations on the device: pure functions of (key, image).

An image is [H, W, C], floats in [0, 1]; use `jax.vmap` for a batch. Random draws are
made here; the operations at given factors are in `geometry` and `color`, where tests
compare them with a reference.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from caco_jax.data import color, geometry
from caco_jax.data.random_resized_crop import ATTEMPTS, Range, central_box

NO_BLUR_PIXELS = 0.01  # so narrow that the blur is the identity


def _between(share: Float[Array, "*s"], limits: Range) -> Float[Array, "*s"]:
    """Maps uniform numbers of [0, 1) to the limits."""
    low, high = limits
    return low + (high - low) * share


def _integer(share: Float[Array, ""], count: ArrayLike) -> Int[Array, ""]:
    """Maps uniform numbers to integers 0 to count - 1; they never round up to count."""
    return jnp.floor(share * count).astype(jnp.int32)


def random_apply(
    key: PRNGKeyArray,
    image: Float[Array, "h w c"],
    operation: Callable[[PRNGKeyArray, Array], Array],
    *,
    probability: float,
) -> Float[Array, "h w c"]:
    """Applies an operation to the image with a given probability.

    Args:
        key: of this image.
        image: [H, W, C].
        operation: a function of (key, image) that keeps the shape.
        probability: of applying it. At 0 nothing is computed, at 1 nothing selected.
    """
    if probability == 0:
        return image
    coin, draw = jax.random.split(key)
    changed = operation(draw, image)
    if probability == 1:
        return changed
    heads = jax.random.bernoulli(coin, probability)
    return jnp.where(heads, changed, image)


def draw_crop(
    key: PRNGKeyArray,
    height: int,
    width: int,
    *,
    scale_range: Range,
    aspect_range: Range,
) -> Int[Array, "4"]:
    """Draws the box of a random resized crop, as torchvision defines it.

    The box's area is a uniform share of the image's, its width over height is
    log-uniform, its place uniform. A draw that does not fit inside the image is drawn
    again; after ten draws the box is the largest central one whose aspect is allowed.

    Args:
        key: of this image.
        height: pixels of the image.
        width: pixels of the image.
        scale_range: smallest and largest share of the area, in (0, 1].
        aspect_range: smallest and largest width / height.

    Returns:
        int32 [4]: top, left, height, width.
    """
    # One call for all draws: each call compiles a random generator.
    shares = jax.random.uniform(key, (2, ATTEMPTS + 1))
    area = _between(shares[0, 1:], scale_range) * (height * width)
    low, high = aspect_range
    aspect = jnp.exp(_between(shares[1, 1:], (math.log(low), math.log(high))))
    widths = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    heights = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = jnp.argmax(fits)
    crop_height, crop_width = heights[first], widths[first]
    top = _integer(shares[0, 0], height - crop_height + 1)
    left = _integer(shares[1, 0], width - crop_width + 1)
    drawn = jnp.stack([top, left, crop_height, crop_width])
    central = np.array(central_box(height, width, aspect_range), np.int32)
    return jnp.where(jnp.any(fits), drawn, central)


def random_resized_crop(
    key: PRNGKeyArray,
    image: Float[Array, "h w c"],
    *,
    size_pixels: int,
    scale_range: Range,
    aspect_range: Range,
) -> Float[Array, "size_pixels size_pixels c"]:
    """Cuts a random box out and resizes it to a square; see `draw_crop`."""
    height, width, _ = image.shape
    box = draw_crop(
        key, height, width, scale_range=scale_range, aspect_range=aspect_range
    )
    return geometry.crop_and_resize(image, box, size_pixels=size_pixels)


def random_flip(
    key: PRNGKeyArray, image: Float[Array, "h w c"], *, probability: float
) -> Float[Array, "h w c"]:
    """Flips the image horizontally with the given probability."""

    def flip(_: PRNGKeyArray, image: Array) -> Array:
        import dm_pix

        return dm_pix.flip_left_right(image)

    return random_apply(key, image, flip, probability=probability)


def draw_jitter(
    key: PRNGKeyArray,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue_turns: float,
    dtype: jnp.dtype = jnp.float32,
) -> color.Jitter:
    """Draws a colour jitter, as torchvision's ColorJitter does.

    Args:
        key: of this image.
        brightness: the factor is uniform in [max(0, 1 - brightness), 1 + brightness].
        contrast: the factor is uniform in [max(0, 1 - contrast), 1 + contrast].
        saturation: the factor is uniform in [max(0, 1 - saturation), 1 + saturation].
        hue_turns: the rotation is uniform in plus or minus this, at most 0.5 turns.
        dtype: of the factors.
    """
    shares = jax.random.uniform(key, (5,), dtype)

    def factor(share: Float[Array, ""], strength: float) -> Float[Array, ""]:
        return _between(share, (max(0.0, 1 - strength), 1 + strength))

    return color.Jitter(
        order=jnp.asarray(color.ORDERS)[_integer(shares[0], len(color.ORDERS))],
        brightness=factor(shares[1], brightness),
        contrast=factor(shares[2], contrast),
        saturation=factor(shares[3], saturation),
        hue_turns=_between(shares[4], (-hue_turns, hue_turns)),
    )


def random_jitter(
    key: PRNGKeyArray,
    image: Float[Array, "h w c"],
    *,
    probability: float,
    brightness: float,
    contrast: float,
    saturation: float,
    hue_turns: float,
) -> Float[Array, "h w c"]:
    """Jitters the colours; see `draw_jitter` for the strengths."""

    def jitter(key: PRNGKeyArray, image: Array) -> Array:
        changes = draw_jitter(
            key,
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            hue_turns=hue_turns,
            dtype=image.dtype,
        )
        return color.jitter(image, changes)

    return random_apply(key, image, jitter, probability=probability)


def random_gray(
    key: PRNGKeyArray, image: Float[Array, "h w 3"], *, probability: float
) -> Float[Array, "h w 3"]:
    """Converts to grayscale with the given probability; three channels remain."""

    def gray(_: PRNGKeyArray, image: Array) -> Array:
        return color.to_gray(image)

    return random_apply(key, image, gray, probability=probability)


def random_blur(
    key: PRNGKeyArray,
    image: Float[Array, "h w c"],
    *,
    probability: float,
    sigma_range_pixels: Range,
) -> Float[Array, "h w c"]:
    """Applies a Gaussian blur; its standard deviation is uniform in the range."""
    if probability == 0:
        return image
    coin, draw = jax.random.split(key)
    heads = jax.random.bernoulli(coin, probability)
    share = jax.random.uniform(draw, (), image.dtype)
    sigma = _between(share, sigma_range_pixels)
    # Not `random_apply`: selecting between matrices is cheaper than between images.
    return geometry.gaussian_blur(image, jnp.where(heads, sigma, NO_BLUR_PIXELS))


def random_solarize(
    key: PRNGKeyArray,
    image: Float[Array, "h w c"],
    *,
    probability: float,
    threshold: float,
) -> Float[Array, "h w c"]:
    """Solarises: inverts values from the threshold on, with the given probability."""

    def solarize(_: PRNGKeyArray, image: Array) -> Array:
        return color.solarize(image, threshold=threshold)

    return random_apply(key, image, solarize, probability=probability)


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
    shares = jax.random.uniform(key, (4,), image.dtype)
    radians = math.radians(max_rotation_degrees)
    angle = _between(shares[0], (-radians, radians))
    scale = _between(shares[1], scale_range)
    shift = _between(shares[2:], (-max_shift_pixels, max_shift_pixels))
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    matrix = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    return geometry.affine_resample(image, matrix, shift)


def random_gamma(
    key: PRNGKeyArray, image: Float[Array, "h w c"], *, gamma_range: Range
) -> Float[Array, "h w c"]:
    """Raises values to a power drawn log-uniformly, so that 1/g is as likely as g."""
    low, high = gamma_range
    share = jax.random.uniform(key, (), image.dtype)
    gamma = jnp.exp(_between(share, (math.log(low), math.log(high))))
    return jnp.clip(image, 0, 1) ** gamma


def random_noise(
    key: PRNGKeyArray, image: Float[Array, "h w c"], *, noise_std: float
) -> Float[Array, "h w c"]:
    """Adds Gaussian noise of the given standard deviation, and clips to [0, 1]."""
    noise = jax.random.normal(key, image.shape, image.dtype)
    return jnp.clip(image + noise_std * noise, 0, 1)
