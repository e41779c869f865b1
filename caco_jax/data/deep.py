"""Images of more than 8 bits: reading their values and scaling them to 8 bits."""

from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from caco_jax.data import jpeg
from caco_jax.data.resize import opencv

Range = tuple[float, float]
_TIFF_BITS = 258  # the tag BitsPerSample


def to_bytes(
    values: Shaped[np.ndarray, "*shape"], value_range: Range
) -> UInt8[np.ndarray, "*shape"]:
    """Scales values to bytes: the range becomes 0 to 255; other values are clipped.

    Args:
        values: numbers, finite.
        value_range: low and high, low < high.
    """
    low, high = value_range
    scaled = (values.astype(np.float64) - low) / (high - low)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def as_rgb(
    values: Shaped[np.ndarray, "h w *colors"], value_range: Range | None
) -> UInt8[np.ndarray, "h w 3"]:
    """Values as RGB bytes.

    Raises:
        DamagedError: no range is given, and the dtype has no known range.
    """
    if value_range is not None:
        pixels = to_bytes(values, value_range)
    elif has_range(values):
        pixels = (values >> 8).astype(np.uint8)
    else:
        raise jpeg.DamagedError(
            f"{values.dtype} values have no known range; data.value_range=auto finds "
            "one"
        )
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def has_range(values: np.ndarray) -> bool:
    """Whether the dtype of values has a known range."""
    return values.dtype == np.uint16


def is_grey(picture: Image.Image) -> bool:
    """Whether an image has one channel of more than 8 bits."""
    return picture.mode.startswith("I") or picture.mode == "F"


def is_color(picture: Image.Image) -> bool:
    """Whether an image is a colour TIFF of more than 8 bits; Pillow reads only 8."""
    tags: Any = getattr(picture, "tag_v2", {})
    return picture.mode in ("RGB", "RGBA") and np.max(tags.get(_TIFF_BITS, 8)) > 8


def by_pillow(picture: Image.Image, encoded: bytes) -> np.ndarray:
    """The values of an image that Pillow has opened, [H, W] or [H, W, 3].

    Raises:
        DamagedError: values are not finite, or OpenCV cannot read a colour image.
    """
    if not is_grey(picture):
        return by_opencv(encoded)
    values = np.asarray(picture)
    if picture.format == "PPM":  # Pillow has scaled it to 16 bits
        values = values.astype(np.uint16)
    if not np.isfinite(values).all():
        raise jpeg.DamagedError("some of its values are not finite")
    return values.astype(values.dtype.newbyteorder("="))


def by_opencv(encoded: bytes) -> Shaped[np.ndarray, "h w 3"]:
    """The stored RGB values of an image of more than 8 bits.

    Raises:
        DamagedError: OpenCV cannot read it.
    """
    cv2 = opencv()
    # Not IMREAD_COLOR_RGB, which mixes up the pixels of a 16-bit TIFF.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:  # more pixels than OpenCV's limit
        bgr = None
    if bgr is None or not np.isfinite(bgr).all():
        raise jpeg.DamagedError("its values cannot be read, or are not finite")
    return bgr[..., ::-1]
