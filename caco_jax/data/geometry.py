"""Resampling of images: crops, blurs, affine maps.

Resizing and blurring are linear and separable, so they are two small matrix products.
These need no gather, which is slow on accelerators, and cost the same for all images of
a batch, whatever was drawn.
"""

import functools

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int

# Three passes of bfloat16 on a TPU: far below one grey level of 255.
PRECISION = jax.lax.Precision.HIGH


def apply_weights(
    image: Float[Array, "h w c"],
    row_weights: Float[Array, "h2 h"],
    column_weights: Float[Array, "w2 w"],
) -> Float[Array, "h2 w2 c"]:
    """Applies one matrix along the height and one along the width."""
    return jnp.einsum(
        "ph,qw,hwc->pqc", row_weights, column_weights, image, precision=PRECISION
    )


def crop_weights(
    start: Int[Array, ""], length: Int[Array, ""], *, size_in: int, size_out: int
) -> Float[Array, "size_out size_in"]:
    """Weights that resize one axis of a crop: bilinear, antialiased as Pillow does it.

    Pillow widens the triangle filter by the shrinking factor and uses no pixel outside
    of the crop; so does torchvision, which crops before it resizes.

    Args:
        start: first pixel of the crop; its dtype does not matter.
        length: pixels in the crop, at least 1.
        size_in: pixels of the whole axis.
        size_out: pixels after resizing.
    """
    dtype = jnp.result_type(float)
    start, length = start.astype(dtype), length.astype(dtype)
    shrink = length / size_out
    centres = start + (jnp.arange(size_out, dtype=dtype) + 0.5) * shrink
    pixels = jnp.arange(size_in, dtype=dtype) + 0.5
    distance = jnp.abs(pixels[None, :] - centres[:, None]) / jnp.maximum(shrink, 1)
    inside = (pixels > start) & (pixels < start + length)
    weights = jnp.maximum(0, 1 - distance) * inside[None, :]
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def crop_and_resize(
    image: Float[Array, "h w c"],
    box: Int[Array, "4"],
    *,
    size_pixels: int,
) -> Float[Array, "size_pixels size_pixels c"]:
    """Cuts a box out and resizes it to a square: bilinear and antialiased.

    Args:
        image: [H, W, C].
        box: top, left, height, width in pixels, inside the image.
        size_pixels: height and width of the result.
    """
    rows, columns = (
        crop_weights(
            box[axis], box[axis + 2], size_in=image.shape[axis], size_out=size_pixels
        ).astype(image.dtype)
        for axis in (0, 1)
    )
    return apply_weights(image, rows, columns)


def blur_weights(sigma_pixels: Float[Array, ""], *, size: int) -> Float[Array, "n n"]:
    """Weights of a Gaussian along one axis, the edge pixel repeated outside.

    The kernel is not truncated: each output pixel depends on the whole axis, and the
    edge pixel gets the weight of the Gaussian beyond it.

    Args:
        sigma_pixels: standard deviation, above 0 and below the axis's length.
        size: pixels of the axis.
    """
    reach = 2 * size
    steps = jnp.arange(reach, dtype=sigma_pixels.dtype)
    kernel = jnp.exp(-0.5 * (steps / sigma_pixels) ** 2)  # one half, centre included
    kernel = kernel / (2 * jnp.sum(kernel) - kernel[0])
    pixels = jnp.arange(size)
    weights = kernel[jnp.abs(pixels[:, None] - pixels[None, :])]
    beyond = jnp.cumsum(kernel[::-1])[::-1][1 : size + 1]  # [o]: further than o
    return weights.at[:, 0].add(beyond).at[:, -1].add(beyond[::-1])


def gaussian_blur(
    image: Float[Array, "h w c"], sigma_pixels: Float[Array, ""]
) -> Float[Array, "h w c"]:
    """Applies a Gaussian blur; outside of the image its edge pixels are repeated.

    dm-pix has a Gaussian blur too, but with zeros outside, which darkens the edges.

    Args:
        image: [H, W, C].
        sigma_pixels: standard deviation, above 0 and below the image's size.
    """
    height, width, _ = image.shape
    rows = blur_weights(sigma_pixels, size=height)
    columns = rows if width == height else blur_weights(sigma_pixels, size=width)
    return apply_weights(image, rows, columns)


def affine_resample(
    image: Float[Array, "h w c"],
    matrix: Float[Array, "2 2"],
    shift_pixels: Float[Array, "2"],
) -> Float[Array, "h w c"]:
    """Bilinear resampling by an affine map about the centre of the image.

    Output pixel o, measured from the centre, reads the input at
    ``matrix @ o + shift_pixels``; pixels outside the image are 0.

    Args:
        image: [H, W, C] floats.
        matrix: [2, 2], acts on (row, column).
        shift_pixels: [2] rows and columns.
    """
    height, width, _ = image.shape
    rows = (jnp.arange(height, dtype=image.dtype) - (height - 1) / 2)[:, None]
    columns = (jnp.arange(width, dtype=image.dtype) - (width - 1) / 2)[None, :]
    source = [
        matrix[axis, 0] * rows
        + matrix[axis, 1] * columns
        + (shift_pixels[axis] + (image.shape[axis] - 1) / 2)
        for axis in (0, 1)
    ]
    read = functools.partial(map_coordinates, coordinates=source, order=1, cval=0.0)
    return jax.vmap(read, in_axes=2, out_axes=2)(image)
