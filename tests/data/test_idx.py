"""MNIST's files: what is read of them, and what is said of those that do not fit."""

import gzip
import pathlib
import struct
import subprocess

import numpy as np
import pytest

from caco_jax.data import sources
from caco_jax.schema import ConfigError

NAMES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}
LABELS = {"train": [0, 1, 2, 1, 0], "test": [2, 1, 0]}


def idx(values, *, code=8):
    """An array as the format has it: two zeros, type, axes, sizes, values."""
    values = np.asarray(values, np.uint8)
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes([0, 0, code, values.ndim]) + sizes + values.tobytes()


def pictures(count, size=(4, 6)):
    return np.arange(count * size[0] * size[1]).reshape(count, *size) % 251


def contents(split):
    labels = LABELS[split]
    return {"images": idx(pictures(len(labels))), "labels": idx(labels)}


def write(root, *, zipped=False, lead="", leave_out=(), **changes):
    """A whole small set; `changes` are the content of files, as train_images=b"..."."""
    root.mkdir(exist_ok=True)
    for (split, kind), name in NAMES.items():
        content = changes.get(f"{split}_{kind}", contents(split)[kind])
        if (split, kind) in leave_out:
            continue
        file = root / (lead + name + (".gz" if zipped else ""))
        file.write_bytes(gzip.compress(content) if zipped else content)
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_images_and_labels_are_those_of_the_files(tmp_path, zipped):
    write(tmp_path / "set", zipped=zipped)
    found = sources.load("idx:set", data_dir=tmp_path)
    assert found.name == "idx:set"
    assert found.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(found.train_examples[..., 0], pictures(5))
    np.testing.assert_array_equal(found.test_examples[..., 0], pictures(3))
    np.testing.assert_array_equal(found.train_labels, LABELS["train"])
    np.testing.assert_array_equal(found.test_labels, LABELS["test"])
    assert found.train_examples.flags.writeable  # a view of a file's bytes is not


def test_a_gzipped_file_is_known_without_its_ending(tmp_path):
    write(tmp_path / "set", train_labels=gzip.compress(contents("train")["labels"]))
    found = sources.load(f"idx:{tmp_path / 'set'}")
    np.testing.assert_array_equal(found.train_labels, LABELS["train"])


def test_dots_and_test_are_usual_names_too(tmp_path):
    for path in write(tmp_path / "set").iterdir():
        name = path.name.replace("-idx", ".idx").replace("t10k", "test")
        path.rename(path.with_name(name))
    assert sources.load(f"idx:{tmp_path / 'set'}").train_count == 5


def test_emnist_is_upright_with_labels_from_one(tmp_path):
    root = tmp_path / "several"
    shifted = {
        f"{split}_labels": idx(np.array(labels) + 1) for split, labels in LABELS.items()
    }
    write(root, lead="emnist-letters-", zipped=True, **shifted)
    write(root, lead="emnist-mnist-")
    found = sources.load(f"idx:{root}/emnist-letters")
    assert found.class_names == ("1", "2", "3")
    np.testing.assert_array_equal(found.train_labels, LABELS["train"])
    np.testing.assert_array_equal(
        found.train_examples[..., 0], pictures(5).swapaxes(1, 2)
    )
    with pytest.raises(ConfigError, match="expected one set, got emnist-letters, emn"):
        sources.load(f"idx:{root}")


TRAIN = contents("train")
FAULTS = {
    "cut": ({"train_images": TRAIN["images"][:-7]}, "ends within 113 of 120 bytes"),
    "cut header": ({"train_images": TRAIN["images"][:9]}, "ends within its header"),
    "long": ({"train_images": TRAIN["images"] + b"!"}, "120 bytes as the header of"),
    "empty": ({"train_labels": b""}, "labels-idx1-ubyte.*begins with nothing"),
    "no idx": ({"train_images": b"<html>"}, "begins with 3c 68 74; download it again"),
    "swapped": (
        {"train_images": TRAIN["labels"], "train_labels": TRAIN["images"]},
        r"three axes, images, got .* with 1 axes; it holds labels: exchange the two",
    ),
    "swapped labels": (
        {"train_labels": TRAIN["images"]},
        "one axis, labels, got .* with 3 axes; it holds images: exchange the two files",
    ),
    "colour": (
        {"train_images": idx(np.zeros((5, 4, 6, 3)))},
        "three axes, images, got .* with 4 axes; take the file of grey images",
    ),
    "float": (
        {"train_images": idx(pictures(5), code=0x0D)},
        r"unsigned bytes \(type 08\), got .*images.* of float32 \(type 0d\); store",
    ),
    "int labels": (
        {"test_labels": idx([1, 2, 0], code=0x0C)},
        r"unsigned bytes \(type 08\), got .*labels.* of int32 \(type 0c\)",
    ),
    "huge": (
        {"train_images": TRAIN["images"][:4] + b"\xff" * 12},
        "ends within 0 of 79,228,162,458,924,105,385,300,197,375 bytes",
    ),
    "none": ({"train_images": idx(np.zeros((0, 4, 6)))}, "whose header says 0x4x6"),
    "fewer labels": (
        {"train_labels": idx([0, 1, 2, 1])},
        r"a label for each image, got 5 images in .* and 4 labels in train-labels",
    ),
    "other size": (
        {"test_images": idx(pictures(3, (5, 6)))},
        "like those to train on, 4x6 pixels, got 5x6 pixels in",
    ),
    "other class": ({"test_labels": idx([9, 1, 0])}, "got 9 in .*t10k-labels.* only;"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_does_not_fit_is_named_in_one_line(tmp_path, fault):
    changes, message = FAULTS[fault]
    write(tmp_path / "set", **changes)
    with pytest.raises(ConfigError, match=rf"^data\.source: expected .*{message}") as e:
        sources.load(f"idx:{tmp_path / 'set'}")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("missing", NAMES)
def test_each_file_is_missed_by_name(tmp_path, missing):
    write(tmp_path / "set", zipped=True, leave_out=[missing])
    message = f"expected {NAMES[missing]} or {NAMES[missing]}.gz in .*, got no "
    with pytest.raises(ConfigError, match=message + " ".join(missing)):
        sources.load(f"idx:{tmp_path / 'set'}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:-12], "ends within the end of its gzip stream"),
        (lambda whole: whole[:12], "ends within the end of its gzip stream"),
        (lambda whole: whole[:15] + b"\xff\xff" + whole[17:], "download the file agai"),
        (lambda whole: whole[:-6] + b"\0\0" + whole[-4:], "CRC check failed"),
    ],
)
def test_a_damaged_archive_is_named_in_one_line(tmp_path, damage, message):
    path = write(tmp_path / "set", zipped=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=rf"^data\.source: expected .*{message}"):
        sources.load(f"idx:{tmp_path / 'set'}")


def test_a_path_without_files_says_what_is_wanted(tmp_path):
    for path in (tmp_path, tmp_path / "no" / "where"):
        with pytest.raises(ConfigError, match="expected a folder of IDX files, got"):
            sources.load(f"idx:{path}")
    with pytest.raises(
        ValueError, match="after idx: expected a directory, got nothing"
    ):
        sources.load("idx:")
    with pytest.raises(
        ValueError, match=r"data.train_split: expected None for idx, got"
    ):
        sources.load("idx:set", train_split="train")


@pytest.mark.slow
def test_make_fashion_prints_the_source_of_a_folder_or_what_to_do(tmp_path):
    def make(folder):
        return subprocess.run(
            ["make", "--no-print-directory", "fashion", f"FASHION={folder}"],
            cwd=pathlib.Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )

    found = make(write(tmp_path / "set", zipped=True))
    assert (found.returncode, found.stderr) == (0, "")
    flags = f"--config.data.source=idx:{tmp_path}/set --config.data.views=small_gray"
    assert found.stdout.split("\n")[:2] == [flags, ""]
    missing = make(tmp_path / "nowhere")
    assert missing.returncode == 2
    assert missing.stderr.startswith(
        f"fashion: expected the files of Fashion-MNIST in {tmp_path}/nowhere, got none;"
    )
