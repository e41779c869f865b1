"""Drawing the box of a random resized crop on the host."""

import math
from typing import NamedTuple

import numpy as np

Range = tuple[float, float]
ATTEMPTS = 10  # as in torchvision


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


def draw_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    scale_range: Range,
    aspect_range: Range,
) -> Box:
    """Draws the box of a random resized crop, as torchvision defines it.

    The definition is that of `augment.draw_crop`, which draws it on the device.

    Args:
        rng: random generator of this image.
        height: pixels of the image.
        width: pixels of the image.
        scale_range: smallest and largest share of the area, in (0, 1].
        aspect_range: smallest and largest width / height.
    """
    low, high = math.log(aspect_range[0]), math.log(aspect_range[1])
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(*scale_range)
        aspect = math.exp(rng.uniform(low, high))
        box_width = round(math.sqrt(area * aspect))
        box_height = round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(0, height - box_height + 1))
            left = int(rng.integers(0, width - box_width + 1))
            return Box(top, left, box_height, box_width)
    return central_box(height, width, aspect_range)


def central_box(height: int, width: int, aspect_range: Range) -> Box:
    """The largest central box with an allowed aspect ratio."""
    low, high = aspect_range
    box_height, box_width = height, width
    if width / height < low:
        box_height = min(height, round(width / low))
    elif width / height > high:
        box_width = min(width, round(height * high))
    top, left = (height - box_height) // 2, (width - box_width) // 2
    return Box(top, left, box_height, box_width)
