"""Decoding images on the host, no more pixels than the crops need.

Images are converted to 8-bit RGB and EXIF orientation is applied. OpenCV decodes
sequential JPEG and PNG after a check of the file: it is faster than Pillow, but prints
errors on stderr and continues. Pillow decodes all other formats.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from caco_jax.data import deep, heif, jpeg
from caco_jax.data.random_resized_crop import Box, Range, draw_box
from caco_jax.data.records import BadImageError, Record
from caco_jax.data.resize import opencv, resize

Pixels = UInt8[np.ndarray, "h w c"]
REDUCTIONS = (8, 4, 2, 1)  # a JPEG can be decoded at 1 / n of its size
# A crop is cut from an image of at least this many times its own resolution. At an
# equal resolution it would be visibly softer or sharper than from the full image.
DENSITY = 1.5
_EVALUATION_DENSITY = 3  # for evaluation, where time matters less
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# torchvision's evaluation at 224 pixels: the shorter side becomes 256
_SHORTER_SIDE = 256 / 224
_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {  # orientation of EXIF -> transpose
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


class Crop(Protocol):
    """The crop of one view."""

    @property
    def size_pixels(self) -> int:
        """Height and width of the crop."""

    @property
    def scale_range(self) -> Range:
        """Share of the image's area, drawn uniformly."""

    @property
    def aspect_range(self) -> Range:
        """Width / height, drawn log-uniformly."""


class CropSpec(NamedTuple):
    """The crop of one view.

    Attributes:
        size_pixels: height and width of the crop.
        scale_range: the crop's share of the image's area, drawn uniformly.
        aspect_range: its width / height, drawn log-uniformly.
    """

    size_pixels: int
    scale_range: Range
    aspect_range: Range


class OpenImage(NamedTuple):
    """An image with a known size whose pixels are not decoded yet.

    Attributes:
        height: pixels, upright.
        width: pixels, upright.
        reductions: the n for which the image can be decoded at 1 / n of its size.
        read: (rows, n) -> RGB, upright, [ceil(H / n), ceil(W / n), 3], of which only
            the first `rows` (of the full size) have to be valid.
    """

    height: int
    width: int
    reductions: tuple[int, ...]
    read: Callable[[int, int], Pixels]


def decode_image(
    record: Record, *, smallest_side_pixels: int | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image to 8-bit RGB, with EXIF orientation applied.

    Grey images get three equal channels, the alpha channel is dropped, and 16 bits are
    scaled to 8 by the record's value range, if it has one.

    Args:
        record: the image.
        smallest_side_pixels: a JPEG is decoded at the smallest of the scales 1, 1/2,
            1/4 and 1/8 whose shorter side is at least this; None: at full size.

    Raises:
        BadImageError: the record is no image, truncated or damaged.
    """
    with _blaming(record):
        image = open_image(record)
        n = 1
        if smallest_side_pixels is not None:
            shorter = min(image.height, image.width)
            n = _reduction(image, shorter / smallest_side_pixels)
        return np.ascontiguousarray(image.read(image.height, n))


def random_resized_crop(
    rng: np.random.Generator,
    image: Record | Pixels,
    *,
    size_pixels: int,
    scale_range: Range,
    aspect_range: Range,
) -> UInt8[np.ndarray, "size_pixels size_pixels 3"]:
    """Cuts a random box out and resizes it to a square; see `random_resized_crops`."""
    crop = CropSpec(size_pixels, scale_range, aspect_range)
    return random_resized_crops(rng, image, [crop])[0]


def random_resized_crops(
    rng: np.random.Generator, image: Record | Pixels, crops: Sequence[Crop]
) -> list[UInt8[np.ndarray, "s s 3"]]:
    """Cuts random boxes out of an image that is decoded once.

    The boxes are drawn first, as torchvision defines it. Of a JPEG only the rows above
    the lowest end of a box are then decoded, at the smallest of the scales 1, 1/2, 1/4
    and 1/8 that has `DENSITY` times the resolution of every crop; at those scales boxes
    are rounded to multiples of 2, 4 or 8 pixels. Boxes are cut out before they are
    resized.

    Args:
        rng: random generator of this image.
        image: a record, or RGB or grey pixels [H, W, 3 or 1].
        crops: the crops to make.

    Raises:
        BadImageError: the record is no image, truncated or damaged. Below the boxes
            only the end of the file is checked.
    """
    with _blaming(image):
        opened = open_image(image)
        boxes = [
            draw_box(
                rng,
                opened.height,
                opened.width,
                scale_range=crop.scale_range,
                aspect_range=crop.aspect_range,
            )
            for crop in crops
        ]
        shrink = min(
            min(box.height, box.width) / crop.size_pixels
            for box, crop in zip(boxes, crops, strict=True)
        )
        n = _reduction(opened, shrink / DENSITY)
        pixels = opened.read(max(box.top + box.height for box in boxes), n)
    return [
        resize(_cut(pixels, box, n), crop.size_pixels, crop.size_pixels)
        for box, crop in zip(boxes, crops, strict=True)
    ]


def center_crop(
    image: Record | Pixels, *, size_pixels: int
) -> UInt8[np.ndarray, "size_pixels size_pixels 3"]:
    """The central crop of an image, for evaluation.

    The shorter side is resized to 256/224 of the crop's, then the centre is cut out.

    Args:
        image: a record, or RGB or grey pixels [H, W, 3 or 1].
        size_pixels: height and width of the crop.

    Raises:
        BadImageError: the record is no image, truncated or damaged.
    """
    target = round(size_pixels * _SHORTER_SIDE)
    with _blaming(image):
        opened = open_image(image)
        shorter = min(opened.height, opened.width)
        pixels = opened.read(
            opened.height, _reduction(opened, shorter / target / _EVALUATION_DENSITY)
        )
    height = target * opened.height // shorter
    width = target * opened.width // shorter
    top, left = round((height - size_pixels) / 2), round((width - size_pixels) / 2)
    resized = resize(pixels, height, width)
    middle = resized[top : top + size_pixels, left : left + size_pixels]
    return np.ascontiguousarray(middle)


def image_size(record: Record) -> tuple[int, int]:
    """Height and width of an image with EXIF orientation applied, without decoding.

    Raises:
        BadImageError: it is no image, or that much can be seen to be wrong.
    """
    with _blaming(record):
        image = open_image(record)
    return image.height, image.width


@contextmanager
def _blaming(image: Record | Pixels) -> Iterator[None]:
    """Converts errors raised inside to BadImageError with the record's name."""
    name = image.name if isinstance(image, Record) else "an array"
    try:
        yield
    except jpeg.DamagedError as error:
        raise BadImageError(f"{name}: {error}") from None


def _reduction(image: OpenImage, shrink: float) -> int:
    """The largest reduction n whose image still has to shrink to the crop, or 1."""
    return next((n for n in image.reductions if n <= shrink), 1)


def _cut(pixels: Pixels, box: Box, n: int) -> Pixels:
    """The pixels of a box in an image that is decoded at 1 / n of its size."""
    top, left = round(box.top / n), round(box.left / n)
    bottom = (box.top + box.height) // n
    right = (box.left + box.width) // n
    return pixels[top:bottom, left:right]


def open_image(image: Record | Pixels) -> OpenImage:
    """Reads the header of an image; its pixels are decoded later.

    Raises:
        DamagedError: the header is damaged.
    """
    encoded = image.encoded if isinstance(image, Record) else image
    if isinstance(encoded, np.ndarray):
        return _open_pixels(encoded)
    if not encoded:
        raise jpeg.DamagedError("0 bytes")
    if encoded.startswith(b"\xff\xd8"):
        header = jpeg.read_header(encoded)
        if header is not None:
            return _open_jpeg(encoded, header)
    value_range = image.value_range if isinstance(image, Record) else None
    if encoded.startswith(_PNG_SIGNATURE):
        return _open_png(encoded, value_range)
    return _open_by_pillow(encoded, value_range)


def _upright(
    height: int, width: int, n: tuple[int, ...], orientation: int, read: Callable
) -> OpenImage:
    """An image with EXIF orientation applied."""
    if orientation == 1:
        return OpenImage(height, width, n, read)
    turn = _UPRIGHT[orientation]
    if orientation >= 5:
        height, width = width, height
    # A row of the upright image may be a column of the stored one: all rows are read.
    return OpenImage(height, width, n, lambda _, n: turn(read(max(height, width), n)))


def _open_pixels(pixels: Pixels) -> OpenImage:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise jpeg.DamagedError(
            f"expected uint8 [H, W, 1 or 3], got {pixels.dtype} {pixels.shape}"
        )
    height, width, _ = pixels.shape
    colours = np.broadcast_to(pixels, (height, width, 3))
    return OpenImage(height, width, (1,), lambda rows, n: colours)


def _open_jpeg(encoded: bytes, header: jpeg.Header) -> OpenImage:
    def read(rows: int, n: int) -> Pixels:
        part = jpeg.first_rows(encoded, header, min(rows, header.height))
        pixels = _by_opencv(part, n)
        if pixels is None:
            raise jpeg.DamagedError("truncated or damaged: the data end too early")
        return pixels

    return _upright(header.height, header.width, REDUCTIONS, header.orientation, read)


def _by_opencv(encoded: bytes, n: int) -> Pixels | None:
    """RGB at 1 / n of the size, as stored; None if OpenCV cannot decode it."""
    cv2 = opencv()
    reduced_bgr = {
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }
    color = reduced_bgr.get(n, cv2.IMREAD_COLOR_RGB)
    flags = color | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:  # more pixels than OpenCV's limit
        return None
    if pixels is None or n not in reduced_bgr:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _open_png(encoded: bytes, value_range: Range | None) -> OpenImage:
    chunks = dict(_png_chunks(encoded))
    if len(chunks.get(b"IHDR", b"")) != 13:
        raise jpeg.DamagedError("no header")
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    orientation = jpeg.read_orientation(chunks.get(b"eXIf", b""))

    def read(rows: int, n: int) -> Pixels:
        if value_range is not None and chunks[b"IHDR"][8] > 8:
            return deep.as_rgb(deep.by_opencv(encoded), value_range)
        pixels = _by_opencv(encoded, 1)
        if pixels is None:
            with _by_pillow(encoded) as picture:
                pixels = _rgb(picture, encoded, value_range)
        return pixels

    return _upright(height, width, (1,), orientation, read)


def _png_chunks(encoded: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of the chunks of a PNG, verified by their checksums."""
    at, name = len(_PNG_SIGNATURE), b""
    while name != b"IEND":
        if len(encoded) < at + 12:
            raise jpeg.DamagedError("truncated")
        length, name = struct.unpack_from(">I4s", encoded, at)
        end = at + 8 + length
        if len(encoded) < end + 4:
            raise jpeg.DamagedError("truncated")
        (stated,) = struct.unpack_from(">I", encoded, end)
        if zlib.crc32(encoded[at + 4 : end]) != stated:
            raise jpeg.DamagedError(
                f"damaged: the checksum of its chunk {name!r} is wrong"
            )
        yield name, encoded[at + 8 : end]
        at = end + 4


@contextmanager
def _by_pillow(encoded: bytes) -> Iterator[Image.Image]:
    heif.prepare(encoded)
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            yield picture
    except Image.UnidentifiedImageError:
        raise jpeg.DamagedError(heif.why_unknown(encoded)) from None
    except jpeg.DamagedError:
        raise
    except Exception as error:  # Pillow's plug-ins may raise anything
        raise jpeg.DamagedError(f"damaged: {error}") from None


def _open_by_pillow(encoded: bytes, value_range: Range | None) -> OpenImage:
    with _by_pillow(encoded) as picture:
        width, height = picture.size
        exif = picture.info.get("exif", b"")
        orientation = jpeg.read_orientation(exif.removeprefix(b"Exif\0\0"))
        is_jpeg = picture.format in ("JPEG", "MPO")

    def read(rows: int, n: int) -> Pixels:
        with _by_pillow(encoded) as picture:
            if n > 1:
                picture.draft(None, (width // n, height // n))
            return _rgb(picture, encoded, value_range)

    n = REDUCTIONS if is_jpeg else (1,)
    return _upright(height, width, n, orientation, read)


def _rgb(picture: Image.Image, encoded: bytes, value_range: Range | None) -> Pixels:
    # 16-bit colours without a range are halved by Pillow, as 16-bit grey is below.
    if deep.is_grey(picture) or (value_range is not None and deep.is_color(picture)):
        return deep.as_rgb(deep.by_pillow(picture, encoded), value_range)
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")  # without Pillow's warning
    return np.array(picture.convert("RGB"))


def stored_values(record: Record) -> np.ndarray | None:
    """The stored values of an image of more than 8 bits, [H, W] or [H, W, 3].

    Returns:
        None for an image of 8 bits; its pixels are not decoded.

    Raises:
        BadImageError: the record is no image, or damaged.
    """
    encoded = record.encoded
    with _blaming(record):
        open_image(record)
        if not isinstance(encoded, bytes) or encoded.startswith(b"\xff\xd8"):
            return None
        if encoded.startswith(_PNG_SIGNATURE):
            bits = dict(_png_chunks(encoded))[b"IHDR"][8]
            return deep.by_opencv(encoded) if bits > 8 else None
        with _by_pillow(encoded) as picture:
            if deep.is_grey(picture) or deep.is_color(picture):
                return deep.by_pillow(picture, encoded)
            return None
