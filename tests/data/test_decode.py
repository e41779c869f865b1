"""Decoding on the host: every format that people have, and every way to break one."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from caco_jax.data import decode, jpeg
from caco_jax.data.decode import BadImageError, decode_image
from caco_jax.data.records import Record
from tests.data.photos import photos

COLOR = photos()[0]  # 128 x 86
JPEGS = {
    "420": {"quality": 90},
    "422": {"quality": 90, "subsampling": 1},
    "444": {"quality": 95, "subsampling": 0},
    "optimized": {"quality": 90, "optimize": True},
    "progressive": {"quality": 90, "progressive": True},
    "restarts": {"quality": 90, "restart_marker_rows": 1},
}


def encode(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Record(file.getvalue(), 3, f"pictures/one.{kind.lower()}")


def by_pillow(record):
    picture = Image.open(io.BytesIO(record.encoded))
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")  # or Pillow warns
    return np.asarray(picture.convert("RGB"))


def with_orientation(image, kind, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "an entry before it"
    return encode(image, kind, exif=exif, **options)


PALETTE = COLOR.convert("P", palette=Image.Palette.ADAPTIVE)
RECORDS = {
    **{f"jpeg {name}": encode(COLOR, **options) for name, options in JPEGS.items()},
    "jpeg grey": encode(COLOR.convert("L"), quality=90),
    "jpeg cmyk": encode(COLOR.convert("CMYK"), quality=95),
    "jpeg and garbage": encode(COLOR)._replace(encoded=encode(COLOR).encoded + b"junk"),
    "png": encode(COLOR, "PNG"),
    "png grey": encode(COLOR.convert("L"), "PNG"),
    "png 1 bit": encode(COLOR.convert("1"), "PNG"),
    "png palette": encode(PALETTE, "PNG"),
    "png palette, transparent": encode(PALETTE, "PNG", transparency=bytes(range(256))),
    "png alpha": encode(COLOR.convert("RGBA"), "PNG"),
    "png grey alpha": encode(COLOR.convert("LA"), "PNG"),
    "webp": encode(COLOR, "WEBP"),
    "bmp": encode(COLOR, "BMP"),
    "gif": encode(COLOR, "GIF"),
    "gif, transparent": encode(PALETTE, "GIF", transparency=0),
    "tiff": encode(COLOR, "TIFF"),
    "ppm": encode(COLOR, "PPM"),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_every_format_has_pillows_pixels(kind):
    pixels = decode_image(RECORDS[kind])
    assert pixels.shape == (86, 128, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, by_pillow(RECORDS[kind]))


@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_sixteen_bits_become_eight(channels):
    deep = np.random.default_rng(0).integers(0, 2**16, (20, 30, *channels), np.uint16)
    record = Record(cv2.imencode(".png", deep)[1].tobytes(), -1, "deep.png")
    expected = (deep >> 8).astype(np.uint8)
    if channels:
        expected = expected[..., 2::-1]  # OpenCV writes BGR
    else:
        expected = np.repeat(expected[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_image(record), expected)


def test_sixteen_bit_grey_tiff():
    deep = np.random.default_rng(0).integers(0, 2**16, (20, 30), np.uint16)
    pixels = decode_image(encode(Image.fromarray(deep), "TIFF"))
    np.testing.assert_array_equal(pixels, np.repeat(deep[..., None] >> 8, 3, axis=2))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured(kind, orientation):
    record = with_orientation(COLOR, kind, orientation)
    stored = Image.open(io.BytesIO(record.encoded))
    upright = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    np.testing.assert_array_equal(decode_image(record), upright)
    assert decode.image_size(record) == upright.shape[:2]
    (crop,) = decode.random_resized_crops(
        np.random.default_rng(0), record, [decode.CropSpec(40, (1.0, 1.0), (0.5, 2.0))]
    )
    whole = decode.resize(upright, 40, 40)
    assert np.abs(crop.astype(int) - whole).mean() < 2


def test_orientation_of_a_progressive_jpeg():
    record = with_orientation(COLOR, "JPEG", 6, progressive=True)
    turned = np.asarray(Image.open(io.BytesIO(record.encoded)).rotate(-90, expand=True))
    np.testing.assert_array_equal(decode_image(record), turned)


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"MM\0*\0\0\0\x08\0\x05", b"junk" * 9])
def test_a_broken_exif_block_means_upright(exif):
    assert jpeg.read_orientation(exif) == 1


@pytest.mark.parametrize("kind", [name for name in RECORDS if name.startswith("jpeg")])
@pytest.mark.parametrize(
    ("smallest", "n"), [(None, 1), (87, 1), (86, 1), (44, 1), (43, 2), (21, 4), (1, 8)]
)
def test_a_jpeg_is_decoded_at_the_smallest_sufficient_size(kind, smallest, n):
    pixels = decode_image(RECORDS[kind], smallest_side_pixels=smallest)
    picture = Image.open(io.BytesIO(RECORDS[kind].encoded))
    picture.draft(None, (128 // n, 86 // n))
    np.testing.assert_array_equal(pixels, np.asarray(picture.convert("RGB")))
    assert pixels.shape == (-(-86 // n), 128 // n, 3)


def test_other_formats_have_one_size():
    assert decode_image(RECORDS["png"], smallest_side_pixels=8).shape == (86, 128, 3)


@pytest.mark.parametrize("kind", ["420", "422", "444", "optimized"])
@pytest.mark.parametrize("n", [1, 2])
def test_the_first_rows_alone_are_those_of_the_whole(kind, n):
    record = encode(COLOR, **JPEGS[kind])
    image = decode.open_image(record)
    whole = image.read(86, n)
    for rows in (1, 7, 8, 16, 17, 33, 60, 85, 86):
        part = image.read(rows, n)
        assert part.shape[0] < whole.shape[0] or rows > 60
        np.testing.assert_array_equal(part[: rows // n], whole[: rows // n])


def test_grey_jpegs_first_rows():
    image = decode.open_image(RECORDS["jpeg grey"])
    whole = image.read(86, 1)
    part = image.read(20, 1)
    assert len(part) == 32
    np.testing.assert_array_equal(part, whole[:32])


BROKEN = {
    "empty": (b"", "0 bytes"),
    "text": (b"this is no image, but words", "no image in a known format"),
    "jpeg's first bytes": (b"\xff\xd8\xff", "truncated in its header"),
    "jpeg's garbage": (b"\xff\xd8" + b"garbage" * 9, "garbage in its header"),
    "png's first bytes": (b"\x89PNG\r\n\x1a\n", "truncated"),
    "webp's half": (RECORDS["webp"].encoded[:300], "damaged|no image"),
    "bmp's half": (RECORDS["bmp"].encoded[:3000], "damaged: .*truncated"),
    "gif's half": (RECORDS["gif"].encoded[:3000], "damaged|truncated"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_image_is_named(kind):
    encoded, message = BROKEN[kind]
    record = Record(encoded, -1, "pictures/bad one")
    with pytest.raises(BadImageError, match=f"^pictures/bad one: .*({message})"):
        decode_image(record)


@pytest.mark.parametrize("kind", [f"jpeg {name}" for name in JPEGS] + ["png"])
def test_truncated_anywhere_is_bad_and_nothing_is_printed(kind, capfd):
    encoded = RECORDS[kind].encoded
    for cut in [*range(2, len(encoded) - 1, 61), len(encoded) - 1]:
        # Pillow takes an image for whole if only the marker of its end is missing.
        if kind in ("jpeg progressive", "jpeg restarts") and cut > len(encoded) - 64:
            continue
        with pytest.raises(BadImageError, match=r"^cut: "):
            decode_image(Record(encoded[:cut], -1, "cut"))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [f"jpeg {name}" for name in JPEGS] + ["png", "webp"])
def test_damage_is_an_image_or_bad_and_hardly_anything_is_printed(kind, capfd):
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        damaged = bytearray(RECORDS[kind].encoded)
        at = rng.integers(0, len(damaged), rng.integers(1, 4))
        for place in at:
            damaged[place] = rng.integers(0, 256)
        try:
            decode_image(Record(bytes(damaged), -1, "damaged"))
            outcomes.add("image")
        except BadImageError as error:
            assert str(error).startswith("damaged: ")
            outcomes.add("bad")
        # libjpeg's one complaint that cannot be foreseen, once an image at most.
        printed = capfd.readouterr().err
        assert printed in ("", "Corrupt JPEG data: bad Huffman code\n")
    assert "bad" in outcomes


def test_a_marker_in_the_midst_is_bad():
    encoded = bytearray(RECORDS["jpeg 420"].encoded)
    encoded[-400:-398] = b"\xff\xc4"
    with pytest.raises(BadImageError, match="marker 0xc4 inside"):
        decode_image(Record(bytes(encoded), -1, "x"))


def test_an_image_that_ends_early_is_bad():
    encoded = RECORDS["jpeg 420"].encoded
    early = encoded[: len(encoded) // 2] + b"\xff\xd9"  # Pillow would fill it with grey
    with pytest.raises(BadImageError, match="the data end too early"):
        decode_image(Record(early, -1, "x"))


def test_numbers_without_a_known_range_are_bad():
    record = encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(BadImageError, match="float32 values have no known range"):
        decode_image(record)


def test_pixels_are_taken_as_they_are():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    pixels = decode_image(Record(grey, -1, "x"))
    np.testing.assert_array_equal(pixels, np.repeat(grey, 3, axis=2))
    pixels[0] = 7  # its own memory
    assert grey[0, 0, 0] == 0
    with pytest.raises(BadImageError, match=r"x: expected uint8 .* got float32"):
        decode_image(Record(np.zeros((3, 4, 3), np.float32), -1, "x"))
