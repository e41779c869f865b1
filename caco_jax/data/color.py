"""Colour operations of Pillow and torchvision, at given factors.

Images are [H, W, 3] in [0, 1]; `jitter` accepts grey images [H, W, 1], too. Unlike
Pillow these operations do not round to bytes. Hue and solarisation are dm-pix's; its
brightness (additive), contrast (one mean for each channel), saturation (in HSV) and
grayscale (a matrix product, which a TPU rounds to 8 bits) are defined differently.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = np.array(list(itertools.permutations(range(4))))  # [24, 4]
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow's convert("L")


class Jitter(NamedTuple):
    """The drawn factors of colour jitter for one image.

    Attributes:
        order: int [4], a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE.
        brightness: [] factor; 1 changes nothing, 0 is black.
        contrast: [] factor; 0 is the mean grey everywhere.
        saturation: [] factor; 0 is the grey image.
        hue_turns: [] rotation of the colour circle, in turns; 0 changes nothing.
    """

    order: Int[Array, "4"]
    brightness: Float[Array, ""]
    contrast: Float[Array, ""]
    saturation: Float[Array, ""]
    hue_turns: Float[Array, ""]


def to_gray(image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """The image without colour, still with three channels."""
    return jnp.broadcast_to(_luma(jnp.moveaxis(image, 2, 0))[:, :, None], image.shape)


def _luma(planes: Float[Array, "c h w"]) -> Float[Array, "h w"]:
    if len(planes) == 1:
        return planes[0]
    # Not a sum over an axis: XLA's CPU compiler fuses this with the operations around
    # it.
    red, green, blue = (
        weight * plane for weight, plane in zip(LUMA, planes, strict=True)
    )
    return red + green + blue


def jitter(image: Float[Array, "h w c"], changes: Jitter) -> Float[Array, "h w c"]:
    """Changes brightness, contrast, saturation and hue, in the order given.

    In a grey image (one channel) saturation and hue change nothing.

    A batch has images of all orders, and a switch inside `jax.vmap` would compute every
    operation in each place. But the first three operations are all a blend with black,
    the mean grey or the grey image. So there are three blends before the one rotation
    of the hue and three after it; a blend that the order of an image does not use has
    factor 1.
    """
    import dm_pix

    one = jnp.ones_like(changes.brightness)
    factors = jnp.stack([changes.brightness, changes.contrast, changes.saturation, one])
    factors = factors[changes.order]
    hue_place = jnp.argmax(changes.order == HUE)
    before = jnp.where(jnp.arange(4) < hue_place, factors, one)
    after = jnp.where(jnp.arange(4) > hue_place, factors, one)
    planes = jnp.moveaxis(image, 2, 0)  # an innermost axis of 3 is slow
    # Loops keep XLA from computing the first blends again inside of each later one.
    planes, _ = jax.lax.scan(_blend, planes, (changes.order[:3], before[:3]))
    if len(planes) == 3:
        planes = dm_pix.adjust_hue(planes, changes.hue_turns, channel_axis=0)
    planes, _ = jax.lax.scan(_blend, planes, (changes.order[1:], after[1:]))
    return jnp.moveaxis(planes, 0, 2)


def _blend(
    planes: Float[Array, "c h w"], blend: tuple[Int[Array, ""], Float[Array, ""]]
) -> tuple[Float[Array, "c h w"], None]:
    """``factor * image + (1 - factor) * other``, clipped, as PIL.ImageEnhance."""
    kind, factor = blend
    gray = _luma(planes)
    mean = jnp.where(kind == CONTRAST, jnp.mean(gray), 0)
    other = jnp.where(kind == SATURATION, gray, mean)
    mixed = factor * planes + jnp.broadcast_to((1 - factor) * other, planes.shape)
    return jnp.clip(mixed, 0, 1), None


def solarize(
    image: Float[Array, "h w c"], *, threshold: float
) -> Float[Array, "h w c"]:
    """Inverts values at or above the threshold, which is on the scale of [0, 1]."""
    import dm_pix

    return dm_pix.solarize(image, threshold)
