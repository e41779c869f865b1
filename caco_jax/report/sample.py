"""A sample of a run's examples, with thumbnails if they are images."""

import base64
import io
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8
from PIL import Image

from caco_jax.data.labelled import open_part, spread_rows
from caco_jax.data.resize import opencv
from caco_jax.data.view_kinds import Views
from caco_jax.runs.pretraining import Pretraining

THUMB_PIXELS = 64  # at most, in height and width
_COLUMNS = 32  # of a sheet


class Sample(NamedTuple):
    """A sample of examples.

    Attributes:
        pixels: [N, ...] of any dtype; images are uint8 [N, H, W, C].
        labels: [N] classes; -1 where there is none.
    """

    pixels: Shaped[np.ndarray, "n *example"]
    labels: Int[np.ndarray, " n"]


def are_pictures(examples: Shaped[np.ndarray, "n *example"]) -> bool:
    """Whether examples are images: uint8 [N, H, W, 1 or 3]."""
    return (
        examples.dtype == np.uint8
        and examples.ndim == 4
        and examples.shape[3] in (1, 3)
    )


def draw_sample(pretraining: Pretraining, *, count: int, held_out: bool) -> Sample:
    """Draws examples at equal distances from a part of the data set.

    Args:
        pretraining: the run.
        count: at most so many.
        held_out: whether of those held out; where there are none, of the others.
    """
    size_pixels = pretraining.views.largest_photo_pixels
    part = None
    if held_out:
        part = open_part(pretraining.data, "test", size_pixels=size_pixels)
    part = part or open_part(pretraining.data, "train", size_pixels=size_pixels)
    assert part is not None
    pieces = list(part.centers(spread_rows(len(part), count)))
    pixels, labels = (np.concatenate(column) for column in zip(*pieces, strict=True))
    several = labels.ndim > 1  # classes of an image that shows more than one
    return Sample(pixels, np.full(len(labels), -1) if several else labels)


def to_bytes(
    view: Float[Array, "n h w c"], views: Views
) -> UInt8[np.ndarray, "n h w c"]:
    """Converts normalised views to 8-bit images."""
    mean, std = np.array(views.mean), np.array(views.std)
    values = np.asarray(view, np.float32) * std + mean
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def sheet(pixels: Shaped[np.ndarray, "n *example"]) -> dict[str, Any] | None:
    """Joins thumbnails of images into one image.

    Returns:
        None where examples are no images; else "url" with the picture in it, its
        "columns" and "rows", the "width" and the "height" of each small one, and how
        many they are, "count".
    """
    if not are_pictures(pixels):
        return None
    small = np.stack([_shrink(image) for image in pixels])
    count, height, width, _ = small.shape
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    grid = np.zeros((rows * columns, *small.shape[1:]), np.uint8)
    grid[:count] = small
    grid = grid.reshape(rows, columns, height, width, -1).swapaxes(1, 2)
    whole = grid.reshape(rows * height, columns * width, -1)
    if whole.shape[2] == 1:
        whole = whole[..., 0]
    return {
        "url": _webp(whole, lossless=height <= THUMB_PIXELS // 2),
        "columns": columns,
        "rows": rows,
        "width": width,
        "height": height,
        "count": count,
    }


def _shrink(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "s t c"]:
    longest = max(image.shape[:2])
    if longest <= THUMB_PIXELS:
        return image
    scale = THUMB_PIXELS / longest
    height, width = (max(round(side * scale), 1) for side in image.shape[:2])
    cv2 = opencv()
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return small.reshape(height, width, image.shape[2])


def _webp(pixels: np.ndarray, *, lossless: bool) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "webp", lossless=lossless, quality=75)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
