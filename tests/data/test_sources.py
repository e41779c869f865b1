import logging

import cv2
import numpy as np
import pytest
from sklearn import datasets

from caco_jax.data import sources
from caco_jax.data.decode import decode_image
from caco_jax.schema import ConfigError
from tests.data.tfds_files import write_set


def test_digits_are_stratified_bytes():
    digits = sources.load("digits")
    assert digits.train_examples.shape == (1347, 16, 16, 1)
    assert digits.test_examples.shape == (450, 16, 16, 1)
    assert digits.num_classes == 10
    assert digits.train_examples.min() == 0
    assert digits.train_examples.max() == 255
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
    distance = np.abs(enlarged - digits.train_examples[0, :, :, 0]).max(axis=(1, 2))
    assert distance.min() < 1.5  # two roundings to bytes
    assert originals.target[distance.argmin()] == digits.train_labels[0]


def test_digits_seed_names_the_held_out_part():
    first, again = sources.load("digits", seed=1), sources.load("digits", seed=1)
    np.testing.assert_array_equal(first.train_examples, again.train_examples)
    other = sources.load("digits", seed=2)
    assert not np.array_equal(first.train_labels, other.train_labels)


def test_fake_has_the_shape_asked_for():
    fake = sources.load("fake:6x5x3x10")
    assert fake.train_examples.shape == (10, 6, 5, 3)
    assert fake.test_examples.shape == (2, 6, 5, 3)
    assert sources.load("fake:6x5x3").train_examples.shape[0] == sources.FAKE_COUNT
    assert set(fake.train_labels) <= set(range(fake.num_classes))


@pytest.mark.parametrize("shape", ["", "8x8", "0x8x3", "8x8x3x", "8x8x3x4x5", "axbxc"])
def test_fake_says_what_a_shape_is(shape):
    with pytest.raises(ValueError, match=r"fake: expected a shape HxWxC or .* got"):
        sources.load(f"fake:{shape}")


def test_unknown_source_lists_the_known():
    with pytest.raises(
        ValueError, match=r"data.source: expected one of cifar10, cifar100, d"
    ):
        sources.load("mnist")
    with pytest.raises(ValueError, match="digits takes nothing after its name"):
        sources.load("digits:7")


@pytest.mark.parametrize(
    "source, hint",
    [
        ("photos/mine", "a folder of images is folder:photos/mine"),
        ("file:///photos", "a folder of images is folder:file:///photos"),
        ("foldr:photos", "did you mean folder?"),
    ],
)
def test_a_source_that_is_nearly_one_is_offered(source, hint):
    with pytest.raises(ValueError) as caught:
        sources.load(source)
    assert str(caught.value).endswith(f", got {source!r}; {hint}")


@pytest.mark.parametrize("kind", ["folder", "idx", "cifar10", "cifar100"])
def test_a_path_that_no_system_has_is_refused_in_a_line(kind):
    path = "a" * 300
    with pytest.raises(ConfigError) as caught:
        sources.load(f"{kind}:{path}")
    assert str(caught.value) == (
        f"data.source: expected a path that can be read, got {path}: File name too "
        "long; check the path and its permissions"
    )


@pytest.mark.parametrize("kind", ["folder", "idx", "cifar10", "cifar100"])
def test_nobodys_home_and_a_bucket_are_refused_in_a_line(kind):
    with pytest.raises(ValueError, match=r"^data\.source: .*~nobody-at-all/x"):
        sources.load(f"{kind}:~nobody-at-all/x")
    with pytest.raises(
        ValueError, match=r"^data\.source: expected a path of this mach"
    ):
        sources.load(f"{kind}:gs://bucket/x")


def test_a_set_checks_its_arrays():
    images = np.zeros((3, 4, 4, 1), np.uint8)
    good = {"name": "own", "train_examples": images, "test_examples": images}
    bare = sources.ArrayDataset(**good, train_labels=None, test_labels=None)
    assert bare.num_classes == 0
    with pytest.raises(ValueError, match="one label for each of 3 train examples"):
        sources.ArrayDataset(
            **good, train_labels=np.zeros(2, np.int32), test_labels=None
        )
    with pytest.raises(ValueError, match=r"on, uint8 \(4, 4, 1\), got float64"):
        sources.ArrayDataset(
            **(good | {"test_examples": images / 255}),
            train_labels=None,
            test_labels=None,
        )


def png(height, width, value):
    image = np.full((height, width, 3), value, np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def squares(count, size=8):
    """Grey PNGs whose value is their number, of two classes."""
    return [(png(size, size, index), index % 2) for index in range(count)]


def write_folder(root, pairs):
    for index, (encoded, label) in enumerate(pairs):
        path = root / f"class {label}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
    return root


def test_a_small_tfds_set_is_read_into_memory(tmp_path):
    splits = {"train": squares(6), "test": squares(3)}
    write_set(tmp_path, "own", splits, class_names=["a", "b"], shape=(8, 8, 3))
    images = sources.load("tfds:own", data_dir=tmp_path)
    assert isinstance(images, sources.ArrayDataset)
    assert images.class_names == ("a", "b")
    values = np.arange(6, dtype=np.uint8)[:, None, None, None]
    np.testing.assert_array_equal(
        images.train_examples, np.broadcast_to(values, (6, 8, 8, 3))
    )
    np.testing.assert_array_equal(images.train_labels, [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(images.test_labels, [0, 1, 0])
    part = sources.load("tfds:own", data_dir=tmp_path, train_split="train[4:]")
    np.testing.assert_array_equal(part.train_examples[:, 0, 0, 0], [4, 5])


@pytest.mark.parametrize(
    ("size", "options"), [(8, {"max_resident_bytes": 9 * 8 * 8 * 3 - 1}), (257, {})]
)
def test_a_large_tfds_set_is_read_by_the_record(tmp_path, size, options):
    splits = {"train": squares(6, size), "test": squares(3, size)}
    write_set(tmp_path, "own", splits, class_names=["a", "b"], shape=(size, size, 3))
    images = sources.load("tfds:own", data_dir=tmp_path, **options)
    assert isinstance(images, sources.RecordDataset)
    assert (len(images.train), len(images.test)) == (6, 3)
    assert images.has_labels
    assert images.num_classes == 2
    assert images.evaluation_train is images.train
    assert decode_image(images.train[4]).max() == 4
    assert images.train[5].label == 1


def test_stl10_learns_from_unlabelled_images(tmp_path):
    unlabelled = [(encoded, -1) for encoded, _ in squares(8)]
    splits = {"train": squares(4), "test": squares(2), "unlabelled": unlabelled}
    shape = {"class_names": ["a", "b"], "shape": (8, 8, 3)}
    write_set(tmp_path, "stl10", splits, **shape)
    images = sources.load("tfds:stl10", data_dir=tmp_path)
    assert len(images.train) == 8
    assert images.train[3].label == -1
    assert len(images.evaluation_train) == 4
    assert images.evaluation_train[3].label == 1
    assert images.has_labels
    both = sources.load("tfds:stl10", data_dir=tmp_path, train_split="train+unlabelled")
    assert (len(both.train), len(both.evaluation_train)) == (12, 4)
    labelled = sources.load("tfds:stl10", data_dir=tmp_path, train_split="train")
    assert isinstance(labelled, sources.ArrayDataset)
    np.testing.assert_array_equal(labelled.train_labels, [0, 1, 0, 1])


def test_a_set_without_labels_is_pretrained_on(tmp_path):
    write_set(tmp_path, "own", {"train": squares(3)}, shape=(8, 8, 3))
    images = sources.load("tfds:own", data_dir=tmp_path)
    assert images.train_examples.shape == (3, 8, 8, 3)
    assert images.test_examples.shape == (0, 8, 8, 3)
    assert not images.has_labels
    records = sources.load("tfds:own", data_dir=tmp_path, max_resident_bytes=0)
    assert records.test is None
    assert not records.has_labels


def test_a_folder_of_one_size_is_read_into_memory(tmp_path):
    write_folder(tmp_path / "own", squares(30))
    images = sources.load("folder:own", data_dir=tmp_path, seed=1)
    assert isinstance(images, sources.ArrayDataset)
    assert images.train_examples.shape == (26, 8, 8, 3)  # two of each fifteen held out
    assert images.test_examples.shape == (4, 8, 8, 3)
    assert images.class_names == ("class 0", "class 1")
    for part in ("train", "test"):
        values = getattr(images, f"{part}_examples")[:, 0, 0, 0]
        np.testing.assert_array_equal(getattr(images, f"{part}_labels"), values % 2)


@pytest.mark.parametrize("stranger", [png(8, 9, 1), b"no image", b""])
@pytest.mark.parametrize("index", [0, 29])
def test_a_folder_with_a_stranger_is_read_by_the_record(
    tmp_path, caplog, stranger, index
):
    pairs = squares(30)
    pairs[index] = (stranger, pairs[index][1])
    write_folder(tmp_path, pairs)
    with caplog.at_level(logging.INFO, logger="caco_jax"):
        images = sources.load(f"folder:{tmp_path}")
    assert isinstance(images, sources.RecordDataset)
    assert (len(images.train), len(images.test)) == (26, 4)
    if index or stranger.startswith(b"\x89"):
        assert "is not kept in memory: " in caplog.text


def test_a_class_that_is_only_tested_is_one_line(tmp_path):
    splits = {"train": squares(6)[::2], "test": squares(3)}
    write_set(tmp_path, "own", splits, class_names=["a", "b"], shape=(8, 8, 3))
    with pytest.raises(ValueError, match=r"^data.source: .* got b in the test split o"):
        sources.load("tfds:own", data_dir=tmp_path)


@pytest.mark.parametrize("source", ["digits", "fake:8x8x3"])
def test_sources_of_two_splits_take_no_names(source):
    with pytest.raises(
        ValueError, match=r"^data.test_split: expected None .* got 'val'"
    ):
        sources.load(source, test_split="val")


def test_folder_wants_a_directory():
    with pytest.raises(
        ValueError, match=r"^data.source: after folder: expected a direct"
    ):
        sources.load("folder:")
