"""HEIC and AVIF: upright and right where they can be read, else one line says what."""

import io
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from caco_jax.data import heif
from caco_jax.data.decode import decode_image, image_size
from caco_jax.data.folders import open_folder
from caco_jax.data.records import BadImageError, Record
from caco_jax.data.sources import load
from tests.data.pictures import write_squares

pillow_heif.register_heif_opener()  # here, to write; to read, decoding does it itself


def picture():
    """A bright left upper corner, 48 wide and 32 high."""
    pixels = np.full((32, 48, 3), 40, np.uint8)
    pixels[:16, :16] = (220, 60, 60)
    return pixels


def encoded(kind, *, orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image = Image.fromarray(picture())
    image.save(buffer, kind, exif=exif.tobytes(), quality=95)
    return buffer.getvalue()


kinds = pytest.mark.parametrize("kind", ["HEIF", "AVIF"])


@kinds
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_picture_is_read_upright(kind, orientation):
    record = Record(encoded(kind, orientation=orientation), -1, "a")
    turns = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    expected = np.rot90(picture(), turns)
    assert image_size(record) == expected.shape[:2]
    found = decode_image(record).astype(int)
    assert np.abs(found - expected).mean() < 4


@kinds
def test_a_truncated_picture_is_a_bad_one(kind):
    content = encoded(kind)
    with pytest.raises(BadImageError, match=r"^a: (truncated or )?damaged"):
        decode_image(Record(content[: len(content) // 2], -1, "a"))


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".avif", ".jpg"])
def test_a_folder_of_them_is_a_source(tmp_path, suffix):
    kind = "AVIF" if suffix == ".avif" else "HEIF"
    for index in range(2):  # a phone's picture may be called .jpg
        (tmp_path / f"{index}{suffix}").write_bytes(encoded(kind))
    assert load(f"folder:{tmp_path}").train_examples.shape == (2, 32, 48, 3)


@pytest.fixture
def without(monkeypatch):
    """Neither the plug-in nor AVIF are installed."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(heif, "_reads_avif", lambda: False)


def test_what_cannot_be_read_is_left_out_with_a_word(tmp_path, without, caplog):
    write_squares(tmp_path, 3)
    for name in ("1.heic", "2.HEIC", "3.avif"):
        (tmp_path / name).write_bytes(b"")
    splits = open_folder(tmp_path)
    assert len(splits.train) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"data.source: .heic (2), .avif (1) in {tmp_path} cannot be read and are left "
        "out: pip install 'caco_jax[heif]' and pip install --upgrade pillow"
    ]


def test_where_nothing_else_is_there_the_refusal_says_what_to_install(
    tmp_path, without
):
    (tmp_path / "1.heic").write_bytes(b"")
    with pytest.raises(ValueError, match="expected images in ") as refused:
        open_folder(tmp_path)
    assert str(refused.value).endswith(
        "ignored: .heic (1); to read them: pip install 'caco_jax[heif]'"
    )


@pytest.mark.parametrize(
    ("brand", "line"),
    [
        (
            b"heic",
            "an image as .heic, which is read after pip install 'caco_jax[heif]'",
        ),
        (
            b"avif",
            "an image as .avif, which is read after pip install --upgrade pillow",
        ),
        (
            b"mif1\0\0\0\0avif",
            "an image as .avif, which is read after pip install --up",
        ),
        (
            b"MiHB\0\0\0\0heix",
            "an image as .heic, which is read after pip install 'cac",
        ),
        (b"isom", "no image in a known format"),
    ],
)
def test_a_record_says_what_it_is_whatever_its_name(without, brand, line):
    content = b"\0\0\0\x18ftyp" + brand + b"\0" * 100
    with pytest.raises(BadImageError) as refused:
        decode_image(Record(content, -1, "photo.jpg"))
    assert str(refused.value).startswith(f"photo.jpg: {line}")
