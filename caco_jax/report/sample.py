"""Some of a run's images, and small pictures of them for a page."""

import base64
import io
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from caco_jax.data.pipeline import CenterSource, stream
from caco_jax.data.recipe import Recipe
from caco_jax.data.records import Records
from caco_jax.data.resize import opencv
from caco_jax.data.sources import ImageSet
from caco_jax.training.assemble import Experiment
from caco_jax.training.inputs import photo_sizes

THUMB_PIXELS = 64  # at most, in height and width
_COLUMNS = 32  # of a sheet
_PART_ROWS = 64


class Sample(NamedTuple):
    """Some images.

    Attributes:
        pixels: uint8 [N, H, W, C].
        labels: [N] classes; -1 where there is none.
    """

    pixels: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]


def draw_sample(experiment: Experiment, *, count: int, held_out: bool) -> Sample:
    """Images that are spread evenly over a part of a run's set.

    Args:
        experiment: the run.
        count: at most so many.
        held_out: whether of those held out; where there are none, of the others.
    """
    images = experiment.images
    if isinstance(images, ImageSet):
        part = "test" if held_out and len(images.test_images) else "train"
        pixels = getattr(images, f"{part}_images")
        labels = getattr(images, f"{part}_labels")
        rows = _spread(len(pixels), count)
        none = np.full(len(rows), -1)
        return Sample(pixels[rows], none if labels is None else labels[rows])
    records = images.train if not held_out or images.test is None else images.test
    return _read(records, count, size_pixels=max(photo_sizes(experiment.recipe)))


def _spread(rows: int, count: int) -> Int[np.ndarray, " n"]:
    return np.linspace(0, rows - 1, min(count, rows)).round().astype(int)


def _read(records: Records, count: int, *, size_pixels: int) -> Sample:
    """Centres of records; those that cannot be read are left out."""
    source = CenterSource(
        records,
        _spread(len(records), count),
        size_pixels=size_pixels,
        part_rows=_PART_ROWS,
    )
    with stream(source) as parts:
        pieces = [(images, labels) for images, labels, _ in parts]
    pixels, labels = (np.concatenate(part) for part in zip(*pieces, strict=True))
    several = labels.ndim > 1  # classes of an image that shows more than one
    return Sample(pixels, np.full(len(labels), -1) if several else labels)


def to_bytes(
    view: Float[Array, "n h w c"], recipe: Recipe
) -> UInt8[np.ndarray, "n h w c"]:
    """Normalised views as pictures again."""
    mean, std = np.array(recipe.mean), np.array(recipe.std)
    values = np.asarray(view, np.float32) * std + mean
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def sheet(pixels: UInt8[np.ndarray, "n h w c"]) -> dict[str, Any]:
    """Small pictures of images as one picture, for a page.

    Returns:
        "url" with the picture in it, its "columns" and "rows", the "width" and the
        "height" of each small one, and how many they are, "count".
    """
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
