"""Crops on the host: their boxes by distribution, their pixels against Pillow's."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sklearn import datasets

from caco_jax.data import decode
from caco_jax.data.decode import CropSpec, center_crop, random_resized_crops
from caco_jax.data.random_resized_crop import draw_box
from caco_jax.data.records import Record
from caco_jax.data.resize import resize
from experiments.benchmarks import pillow_views
from tests.data.photos import differences, photos
from tests.data.test_draws import CROPS, DRAWS, FALSE_ALARM

ASPECTS = (3 / 4, 4 / 3)


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92, **options)
    return Record(file.getvalue(), -1, "photo.jpg")


@pytest.fixture(scope="module")
def large():
    """Photographs of 640 x 427 as JPEG, and as Pillow decodes them."""
    pictures = map(Image.fromarray, datasets.load_sample_images().images)
    records = [jpeg(picture) for picture in pictures]
    return [
        (record, Image.open(io.BytesIO(record.encoded)).convert("RGB"))
        for record in records
    ]


@pytest.mark.parametrize("setting", CROPS)
def test_boxes_are_drawn_as_torchvision_draws_them(setting):
    height, width, scale, aspect = setting
    ours, defined = np.random.default_rng(0), np.random.default_rng(1)
    ranges = {"scale_range": scale, "aspect_range": aspect}
    boxes = np.array([draw_box(ours, height, width, **ranges) for _ in range(DRAWS)])
    others = np.array(
        [
            pillow_views.draw_crop(defined, height, width, scale, aspect)
            for _ in range(DRAWS)
        ]
    )
    assert (boxes >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()
    for quantity in (
        lambda b: b[:, 0],
        lambda b: b[:, 1],
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
    ):
        a, b = quantity(boxes), quantity(others)
        if len(np.unique(a)) > 1:
            assert stats.ks_2samp(a, b).pvalue > FALSE_ALARM
        else:
            np.testing.assert_array_equal(np.unique(a), np.unique(b))


SHRINKS = (0.3, 0.9, 1.0, 1.04, 1.09, 1.15, 1.3, 1.5, 1.75, 2.0, 2.2, 2.6, 3.0, 3.19, 4)


@pytest.mark.parametrize("shrink", SHRINKS)
@pytest.mark.parametrize("other", [1.0, 0.8, 1.3])
def test_resizing_is_pillows(shrink, other):
    for photo in photos():
        size = (
            max(round(photo.width / shrink), 4),
            max(round(photo.height / shrink / other), 4),
        )
        expected = photo.resize(size, Image.Resampling.BILINEAR)
        ours = resize(np.asarray(photo), *size[::-1])
        mean, _ = differences(ours / 255, expected)
        assert mean <= 1


def test_resizing_gives_other_memory():
    image = np.asarray(photos()[1])
    same = resize(image, *image.shape[:2])
    assert not np.shares_memory(same, image)
    np.testing.assert_array_equal(same, image)


def test_crops_are_pillows_crops(large):
    spec = CropSpec(224, (0.08, 1.0), ASPECTS)
    for seed in range(40):
        record, picture = large[seed % 2]
        (crop,) = random_resized_crops(np.random.default_rng(seed), record, [spec])
        box = draw_box(
            np.random.default_rng(seed),
            *(427, 640),
            scale_range=spec.scale_range,
            aspect_range=ASPECTS,
        )
        expected = pillow_views.crop_and_resize(picture, box, 224)
        assert differences(crop / 255, expected)[0] <= 1


def test_small_crops_come_from_a_smaller_decoding(large, monkeypatch):
    """A box is rounded to its grid; the other difference is the decoder's filter."""
    read = []
    by_opencv = decode._by_opencv
    monkeypatch.setattr(
        decode, "_by_opencv", lambda data, n: read.append(n) or by_opencv(data, n)
    )
    spec = CropSpec(48, (0.3, 1.0), ASPECTS)
    means = []
    for seed in range(40):
        record, picture = large[seed % 2]
        (crop,) = random_resized_crops(np.random.default_rng(seed), record, [spec])
        box = draw_box(
            np.random.default_rng(seed),
            *(427, 640),
            scale_range=spec.scale_range,
            aspect_range=ASPECTS,
        )
        n = read[-1]
        assert n == max(
            k for k in (1, 2, 4, 8) if k * 48 * 1.5 <= min(box.height, box.width)
        )
        top, left = round(box.top / n) * n, round(box.left / n) * n
        bottom = (box.top + box.height) // n * n
        right = (box.left + box.width) // n * n
        rounded = (top, left, bottom - top, right - left)
        assert np.abs(np.subtract(rounded, box)).max() <= 2 * n
        expected = pillow_views.crop_and_resize(picture, rounded, 48)
        means.append(differences(crop / 255, expected)[0])
    assert set(read) == {2, 4}
    assert np.mean(means) <= 1.5
    assert np.max(means) <= 3


def test_crops_of_one_image_share_a_decoding(large, monkeypatch):
    read = []
    by_opencv = decode._by_opencv
    monkeypatch.setattr(
        decode, "_by_opencv", lambda data, n: read.append(n) or by_opencv(data, n)
    )
    specs = [CropSpec(200, (0.2, 1.0), ASPECTS), CropSpec(96, (0.05, 0.14), ASPECTS)]
    record, _ = large[0]
    crops = random_resized_crops(np.random.default_rng(3), record, specs)
    assert [crop.shape for crop in crops] == [(200, 200, 3), (96, 96, 3)]
    assert read == [1]  # the smaller crop needs every pixel
    rng = np.random.default_rng(3)
    for crop, spec in zip(crops, specs, strict=True):
        (alone,) = random_resized_crops(rng, record, [spec])
        np.testing.assert_array_equal(alone, crop)
    one = decode.random_resized_crop(
        np.random.default_rng(3), record, **specs[0]._asdict()
    )
    np.testing.assert_array_equal(one, crops[0])


@pytest.mark.parametrize("height", [1, 3, 8])
def test_images_of_a_few_pixels_are_cropped(height):
    pixels = np.full((height, 2, 3), 9, np.uint8)
    spec = CropSpec(8, (0.08, 1.0), ASPECTS)
    for seed in range(20):
        (crop,) = random_resized_crops(np.random.default_rng(seed), pixels, [spec])
        np.testing.assert_array_equal(crop, np.full((8, 8, 3), 9))
    np.testing.assert_array_equal(
        center_crop(pixels, size_pixels=8), np.full((8, 8, 3), 9)
    )


@pytest.mark.parametrize("size", [32, 96, 224])
def test_center_crops_are_torchvisions(large, size):
    """Resize(256/224 of it), then CenterCrop, by Pillow."""
    for record, picture in large:
        shorter = round(size * 256 / 224)
        whole = (int(shorter * 640 / 427), shorter)
        resized = picture.resize(whole, Image.Resampling.BILINEAR)
        left, top = round((whole[0] - size) / 2), round((whole[1] - size) / 2)
        expected = resized.crop((left, top, left + size, top + size))
        crop = center_crop(record, size_pixels=size)
        assert crop.shape == (size, size, 3)
        assert differences(crop / 255, expected)[0] <= 1.0


def test_center_crop_of_an_upright_image():
    photo = photos()[0].transpose(Image.Transpose.ROTATE_90)
    crop = center_crop(np.asarray(photo), size_pixels=28)
    assert crop.shape == (28, 28, 3)
    middle = photo.resize((32, int(32 * 128 / 86)), Image.Resampling.BILINEAR)
    expected = middle.crop((2, 10, 30, 38))
    assert differences(crop / 255, expected)[0] <= 1


def test_a_bad_image_is_named():
    spec = CropSpec(8, (0.08, 1.0), ASPECTS)
    with pytest.raises(decode.BadImageError, match=r"^here: 0 bytes"):
        random_resized_crops(np.random.default_rng(0), Record(b"", 0, "here"), [spec])
    with pytest.raises(decode.BadImageError, match=r"^here: 0 bytes"):
        center_crop(Record(b"", 0, "here"), size_pixels=8)
