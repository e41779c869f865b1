"""Parsing of JPEG files: header, damage check, and decoding of the first rows only.

libjpeg prints warnings about damaged files on stderr and decodes them nonetheless. So
files are checked before, and are passed on without the end marker: an image whose data
are truncated then fails, and nothing is printed. One warning remains, about a code that
is in no Huffman table: one line for each image with such damage.
"""

import re
import struct
from typing import NamedTuple

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # other markers are part of the data
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)
_START_OF_SCAN, _END_OF_IMAGE, _RESTART_INTERVAL, _APP1 = 0xDA, 0xD9, 0xDD, 0xE1
_EXIF = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
# libjpeg reads up to eight bytes ahead of what it decodes.
_PADDING = bytes(16)


class Header(NamedTuple):
    """The header of a sequential JPEG with one scan, as nearly all are.

    Attributes:
        height: pixels, before the orientation is applied.
        width: pixels.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        block_rows: rows of pixels that are stored together, 8 or 16 or more.
        height_at: offset of the height in the file.
        end: offset of the end of the image's data.
    """

    height: int
    width: int
    orientation: int
    block_rows: int
    height_at: int
    end: int


class DamagedError(ValueError):
    """The file is a damaged or truncated JPEG."""


def read_header(data: bytes) -> Header | None:
    """Reads the header of a sequential JPEG in colour or grey, with one scan.

    Returns None for every other kind, and for data with restart markers, about which
    libjpeg would print warnings if they are truncated.

    Raises:
        DamagedError: it is one, but truncated or damaged.
    """
    frame: tuple[int, int, bytes] | None = None  # marker, offset, content
    orientation, restarts, at = 1, False, 2
    while True:
        marker, content, after = _segment(data, at)
        if marker in _START_OF_FRAME:
            frame = marker, at + 4, content
        elif marker == _APP1 and content.startswith(_EXIF):
            orientation = read_orientation(content[len(_EXIF) :])
        elif marker == _RESTART_INTERVAL:
            restarts = any(content)
        elif marker == _START_OF_SCAN:
            break
        at = after
    if frame is None:
        raise DamagedError("no frame header before the image's data")
    marker, place, fields = frame
    if marker not in _SEQUENTIAL or len(fields) < 6 or restarts:
        return None
    bits, height, width, components = struct.unpack(">BHHB", fields[:6])
    if bits != 8 or components not in (1, 3) or content[:1] != fields[5:6]:
        return None
    if not (height and width) or len(fields) < 6 + 3 * components:
        raise DamagedError(f"a frame of {height} x {width} pixels")
    # Grey images are stored by 8 rows, whatever sampling factor they state.
    tallest = max(fields[7 + 3 * c] & 15 for c in range(components))
    block_rows = 8 * tallest if components > 1 else 8
    end = _data_end(data, after)
    return Header(height, width, orientation, block_rows, place + 1, end)


def _segment(data: bytes, at: int) -> tuple[int, bytes, int]:
    """A marker, its content, and the offset of the next marker."""
    while data[at : at + 2] == b"\xff\xff":
        at += 1
    if len(data) < at + 4:
        raise DamagedError("truncated in its header")
    sign, marker, length = struct.unpack(">BBH", data[at : at + 4])
    if sign != 0xFF or length < 2:
        raise DamagedError("garbage in its header")
    after = at + 2 + length
    if len(data) < after:
        raise DamagedError("truncated in its header")
    return marker, data[at + 4 : after], after


def _data_end(data: bytes, start: int) -> int:
    """Offset of the end of the scan's data, which the end marker has to follow."""
    found = _MARKER.search(data, start)
    if found is None:
        raise DamagedError("truncated: the image's data do not end")
    marker = found[0][1]
    if marker != _END_OF_IMAGE:
        raise DamagedError(f"marker {marker:#x} inside the image's data")
    return found.start()


def read_orientation(exif: bytes) -> int:
    """The orientation in an EXIF block, 1 to 8; 1 if it has none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        if order is None:
            return 1
        (first,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, first)
        for entry in range(count):
            at = first + 2 + 12 * entry
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, at)
            if tag == _ORIENTATION_TAG and kind == 3:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # the block is truncated; the image itself may be complete
        return 1
    return 1


def first_rows(data: bytes, header: Header, rows: int) -> bytes:
    """A JPEG file of the first rows only, which is decoded in proportionally less time.

    Its pixels equal those of the whole image. Rows of a block are stored together, and
    the colours of its last row are interpolated with the next block: so it has one
    block more than requested.

    Args:
        data: the whole file.
        header: its header.
        rows: number of rows, 1 to the image's height.

    Returns:
        A JPEG file without an end marker.
    """
    blocks = -(-rows // header.block_rows) + 1
    height = min(blocks * header.block_rows, header.height)
    at = header.height_at
    pieces = (data[:at], height.to_bytes(2, "big"), data[at + 2 : header.end], _PADDING)
    return b"".join(pieces)
