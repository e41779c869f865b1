"""Resizing on the host by OpenCV, close to Pillow's antialiased bilinear filter.

For enlarging, OpenCV's bilinear interpolation equals Pillow's. For shrinking, Pillow
averages with a triangle filter as wide as two pixels of the result; a blur of five taps
and OpenCV's cubic interpolation are within one grey level of that. The taps are fitted
up to a shrinking factor of `_SHRINKS[-1]`; beyond, Pillow is used.
"""

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from caco_jax._extras import require_package

# Fitted to the smallest absolute difference from Pillow on photographs: weight of the
# two nearest pixels and of the two after them. Below the first factor no blur is best.
_SHRINKS = (1.08, 1.2, 1.4, 1.6, 1.9, 2.1, 2.4, 2.8, 3.2)
_NEXT = (0.100, 0.127, 0.172, 0.209, 0.236, 0.245, 0.245, 0.223, 0.187)
_AFTER_NEXT = (0.0, 0.0, 0.0, 0.003, 0.021, 0.037, 0.063, 0.109, 0.154)


def opencv() -> Any:
    """The module OpenCV, which only image files need.

    Raises:
        UserError: OpenCV is not installed.
    """
    return require_package("cv2", purpose="reading image files")


def resize(
    image: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Resizes an image, with antialiasing if it shrinks.

    On photographs the mean absolute difference from Pillow's `Resampling.BILINEAR` is
    at most 1 of 255.

    Args:
        image: RGB.
        height: pixels of the result.
        width: pixels of the result.
    """
    down, across = image.shape[0] / height, image.shape[1] / width
    if max(down, across) > _SHRINKS[-1]:
        pillow = Image.fromarray(image)
        return np.array(pillow.resize((width, height), Image.Resampling.BILINEAR))
    cv2 = opencv()
    blur_down, blur_across = down > _SHRINKS[0], across > _SHRINKS[0]
    if blur_down or blur_across:
        taps = _taps(across) if blur_across else _NO_BLUR
        taps_down = _taps(down) if blur_down else _NO_BLUR
        image = cv2.sepFilter2D(
            image, -1, taps, taps_down, borderType=cv2.BORDER_REPLICATE
        )
        # An axis that does not shrink needs no blur.
        rows = height if blur_down else image.shape[0]
        columns = width if blur_across else image.shape[1]
        image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_CUBIC)
    if image.shape[:2] == (height, width):
        return image if blur_down or blur_across else image.copy()
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


_NO_BLUR = np.ones(1, np.float32)


def _taps(shrink: float) -> np.ndarray:
    """The blur along an axis that shrinks."""
    near = np.interp(shrink, _SHRINKS, _NEXT)
    far = np.interp(shrink, _SHRINKS, _AFTER_NEXT)
    taps = [far, near, 1 - 2 * (near + far), near, far]
    return np.array(taps if far else taps[1:-1], np.float32)  # fewer taps are faster
