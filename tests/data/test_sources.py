import numpy as np
import pytest
from sklearn import datasets

from caco_jax.data import sources


def test_digits_are_stratified_bytes():
    digits = sources.load("digits")
    assert digits.train_images.shape == (1347, 16, 16, 1)
    assert digits.test_images.shape == (450, 16, 16, 1)
    assert digits.num_classes == 10
    assert digits.train_images.min() == 0
    assert digits.train_images.max() == 255
    shares = np.bincount(digits.test_labels) / np.bincount(digits.train_labels)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.02)


def test_digits_are_the_originals_enlarged_bilinearly():
    digits = sources.load_digits_set()
    originals = datasets.load_digits()
    weights = np.zeros((16, 8))  # pixel o's centre lies at (o + 0.5) / 2 - 0.5
    for o, centre in enumerate((np.arange(16) + 0.5) / 2 - 0.5):
        lower = int(np.floor(centre))
        weights[o, max(lower, 0)] += 1 - (centre - lower)
        weights[o, min(lower + 1, 7)] += centre - lower
    enlarged = weights @ (originals.images * 255 / 16) @ weights.T
    distance = np.abs(enlarged - digits.train_images[0, :, :, 0]).max(axis=(1, 2))
    assert distance.min() < 1.5  # two roundings to bytes
    assert originals.target[distance.argmin()] == digits.train_labels[0]


def test_digits_seed_names_the_held_out_part():
    first, again = sources.load("digits", seed=1), sources.load("digits", seed=1)
    np.testing.assert_array_equal(first.train_images, again.train_images)
    other = sources.load("digits", seed=2)
    assert not np.array_equal(first.train_labels, other.train_labels)


def test_fake_has_the_shape_asked_for():
    fake = sources.load("fake:6x5x3x10")
    assert fake.train_images.shape == (10, 6, 5, 3)
    assert fake.test_images.shape == (2, 6, 5, 3)
    assert sources.load("fake:6x5x3").train_images.shape[0] == sources.FAKE_COUNT
    assert set(fake.train_labels) <= set(range(fake.num_classes))


@pytest.mark.parametrize("shape", ["", "8x8", "0x8x3", "8x8x3x", "8x8x3x4x5", "axbxc"])
def test_fake_says_what_a_shape_is(shape):
    with pytest.raises(ValueError, match=r"fake: want a shape HxWxC or .* got"):
        sources.load(f"fake:{shape}")


def test_unknown_source_lists_the_known():
    with pytest.raises(ValueError, match=r"data.source: want one of digits, fake"):
        sources.load("mnist")
    with pytest.raises(ValueError, match="digits takes nothing after its name"):
        sources.load("digits:7")


def test_a_set_checks_its_arrays():
    images = np.zeros((3, 4, 4, 1), np.uint8)
    good = {"name": "own", "train_images": images, "test_images": images}
    bare = sources.ImageSet(**good, train_labels=None, test_labels=None)
    assert bare.num_classes == 0
    with pytest.raises(ValueError, match="one label for each of 3 train images"):
        sources.ImageSet(**good, train_labels=np.zeros(2, np.int32), test_labels=None)
    with pytest.raises(ValueError, match="want test images as uint8"):
        sources.ImageSet(
            **(good | {"test_images": images / 255}),
            train_labels=None,
            test_labels=None,
        )
