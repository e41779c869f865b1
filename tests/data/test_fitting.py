"""Other images than a run's, as its network takes them."""

import numpy as np
import pytest

from caco_jax.data.dataset import ArrayDataset, RecordDataset
from caco_jax.data.fitting import convert, fit_to
from caco_jax.data.records import ArrayRecords
from caco_jax.data.sources import make_fake_set

LABELS = np.arange(6, dtype=np.int32) % 2


def streamed(*shape):
    records = ArrayRecords("s", np.full((6, *shape), 7, np.uint8), LABELS)
    return RecordDataset("s", records, records, ("a", "b"), workers=0)


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3), (30, 31, 3), (300, 20, 1)])
@pytest.mark.parametrize("wanted", [(8, 8, 1), (6, 10, 3), (1, 1, 3)])
def test_a_plain_image_stays_plain_whatever_its_shape(shape, wanted):
    image = np.full(shape, 77, np.uint8)
    np.testing.assert_array_equal(convert(image, wanted), np.full(wanted, 77))


def test_colours_become_grey_by_their_luminance_and_grey_comes_back():
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    grey = convert(image, (1, 3, 1))
    np.testing.assert_allclose(grey[0, :, 0], [76, 150, 29], atol=1)  # ITU-R BT.601
    np.testing.assert_array_equal(convert(grey, (1, 3, 3)), np.repeat(grey, 3, 2))


def test_the_middle_is_kept():
    image = np.zeros((4, 12, 1), np.uint8)
    image[:, 4:8] = 200
    np.testing.assert_array_equal(convert(image, (4, 4, 1)), np.full((4, 4, 1), 200))


@pytest.mark.parametrize("shape", ["8x8x3x16", "16x12x1x16", "5x5x3x16"])
def test_images_in_memory_become_those_of_the_run(shape):
    own, other = make_fake_set("8x8x1x32"), make_fake_set(shape)
    fitted = fit_to(other, own, size_pixels=0)
    assert fitted.train_examples.shape == (16, 8, 8, 1)
    assert fitted.test_examples.shape == (4, 8, 8, 1)
    np.testing.assert_array_equal(fitted.train_labels, other.train_labels)
    np.testing.assert_array_equal(fitted.test_labels, other.test_labels)
    assert fitted.class_names == other.class_names


def test_streamed_images_become_those_of_the_run():
    fitted = fit_to(streamed(20, 30, 3), make_fake_set("8x8x1x32"), size_pixels=0)
    np.testing.assert_array_equal(
        fitted.train_examples, np.full((6, 8, 8, 1), 7, np.uint8)
    )
    np.testing.assert_array_equal(fitted.train_labels, LABELS)


def test_what_fits_stays():
    own, images = make_fake_set("8x8x3x32"), make_fake_set("8x8x3x16", seed=1)
    assert fit_to(images, own, size_pixels=0) is images
    assert fit_to(images, streamed(9, 9, 3), size_pixels=8) is images
    others = streamed(9, 9, 3)
    assert fit_to(others, own, size_pixels=8) is others
    assert fit_to(others, streamed(5, 5, 3), size_pixels=8) is others


def test_a_run_on_a_stream_sees_all_as_crops():
    fitted = fit_to(make_fake_set("5x5x1x16"), streamed(9, 9, 3), size_pixels=8)
    assert isinstance(fitted, RecordDataset)
    assert len(fitted.train) == 16


def test_what_is_no_image_is_refused():
    values = np.zeros((4, 7), np.float32)
    own = ArrayDataset("own", values, LABELS[:4], values, LABELS[:4], ("a", "b"))
    with pytest.raises(ValueError, match=r"^expected .* float32 \(7,\), fake.* uint8"):
        fit_to(make_fake_set("8x8x3x16"), own, size_pixels=0)
    with pytest.raises(ValueError, match=r"uint8 \(8, 8, 3\), own has float32 \(7,\)"):
        fit_to(own, streamed(9, 9, 3), size_pixels=8)
