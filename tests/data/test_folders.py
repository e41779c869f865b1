"""What a directory's layout says, and what it must not be."""

import os

import numpy as np
import pytest

from caco_jax.data import folders
from caco_jax.data.folders import open_folder


def lay_out(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


def names(records, root):
    paths = (records.path(index) for index in range(len(records)))
    return [os.path.relpath(path, root) for path in paths]


def labels(records):
    return [records[index].label for index in range(len(records))]


def test_a_flat_folder_has_no_labels(tmp_path):
    lay_out(tmp_path, "10.jpg", "9.PNG", "b.jpeg", ".hidden.jpg", "notes.txt", "1.webp")
    train, test, class_names = open_folder(tmp_path)
    assert names(train, tmp_path) == ["1.webp", "9.PNG", "10.jpg", "b.jpeg"]
    assert test is None
    assert class_names == ()
    assert labels(train) == [-1] * 4


def test_sub_folders_are_classes_and_a_tenth_is_held_out(tmp_path):
    paths = [f"cat{c}/{i}.jpg" for c in (2, 10) for i in range(25)]
    lay_out(tmp_path, *paths, "rare/deep/1.jpg", ".cache/1.jpg", "empty/readme.md")
    train, test, class_names = open_folder(tmp_path, seed=3)
    assert class_names == ("cat2", "cat10", "rare")
    np.testing.assert_array_equal(np.bincount(labels(train)), [23, 23, 1])
    np.testing.assert_array_equal(np.bincount(labels(test)), [2, 2])
    everything = names(train, tmp_path) + names(test, tmp_path)
    assert sorted(everything) == sorted([*paths, "rare/deep/1.jpg"])
    for records in (train, test):
        for path, label in zip(names(records, tmp_path), labels(records), strict=True):
            assert path.startswith(class_names[label] + "/")
    again = open_folder(tmp_path, seed=3).test
    assert names(again, tmp_path) == names(test, tmp_path)
    assert names(open_folder(tmp_path, seed=4).test, tmp_path) != names(test, tmp_path)


@pytest.mark.parametrize(
    "paths", [("a/1.jpg", "a/2.jpg"), ("a/1.jpg", "b/1.jpg", "c.jpg")]
)
def test_one_sub_folder_or_images_beside_them_are_no_classes(tmp_path, paths):
    train, test, class_names = open_folder(lay_out(tmp_path, *paths))
    assert names(train, tmp_path) == list(paths)
    assert test is None
    assert class_names == ()


@pytest.mark.parametrize("name", folders.TEST_NAMES)
def test_split_folders(tmp_path, name):
    lay_out(tmp_path, "train/b/1.jpg", "train/a/2.jpg", f"{name}/a/3.jpg")
    train, test, class_names = open_folder(tmp_path)
    assert class_names == ("a", "b")
    assert names(train, tmp_path) == ["train/a/2.jpg", "train/b/1.jpg"]
    assert names(test, tmp_path) == [f"{name}/a/3.jpg"]
    assert labels(train) == [0, 1]
    assert labels(test) == [0]


def test_splits_by_name(tmp_path):
    lay_out(tmp_path, *(f"{split}/{c}/1.jpg" for split in "xyz" for c in "ab"))
    train, test, _ = open_folder(tmp_path, train_split="y", test_split="x")
    assert names(train, tmp_path) == ["y/a/1.jpg", "y/b/1.jpg"]
    assert names(test, tmp_path) == ["x/a/1.jpg", "x/b/1.jpg"]
    with pytest.raises(
        ValueError, match=r"^data.test_split: .* one of x, y, z, got 'w'"
    ):
        open_folder(tmp_path, train_split="y", test_split="w")
    with pytest.raises(
        ValueError, match=r"^data.train_split: .*beside data.test_split"
    ):
        open_folder(tmp_path, test_split="x")


def test_a_train_folder_alone_is_held_out_from(tmp_path):
    lay_out(tmp_path, *(f"train/{c}/{i}.jpg" for c in "ab" for i in range(4)))
    train, test, _ = open_folder(tmp_path)
    assert (len(train), len(test)) == (6, 2)


def test_unlabelled_training_images_need_no_test_split(tmp_path):
    lay_out(tmp_path, "train/1.jpg", "train/2.jpg", "test/a/1.jpg")
    train, test, class_names = open_folder(tmp_path)
    assert (len(train), test, class_names) == (2, None, ())
    with pytest.raises(
        ValueError, match=r"want classes in both splits, got none in .*train"
    ):
        open_folder(tmp_path, test_split="test")


def test_tiny_imagenet(tmp_path):
    lay_out(
        tmp_path,
        *(f"train/{c}/images/{c}_{i}.JPEG" for c in ("n1", "n2") for i in range(2)),
        "train/n1/n1_boxes.txt",
        *(f"val/images/val_{i}.JPEG" for i in range(3)),
        "test/images/test_0.JPEG",
    )
    lines = "val_0.JPEG\tn2\t0\t0\t1\t1\nval_1.JPEG\tn1\t0\t0\t1\t1\n"
    (tmp_path / "val/val_annotations.txt").write_text(lines)
    train, test, class_names = open_folder(tmp_path)
    assert class_names == ("n1", "n2")
    assert labels(train) == [0, 0, 1, 1]
    assert names(test, tmp_path) == ["val/images/val_0.JPEG", "val/images/val_1.JPEG"]
    assert labels(test) == [1, 0]


def test_links_that_go_round_end(tmp_path):
    lay_out(tmp_path / "own", "a/1.jpg", "b/2.jpg")
    (tmp_path / "own/b/again").symlink_to(tmp_path / "own/b")
    (tmp_path / "own/c").symlink_to(lay_out(tmp_path / "else", "3.jpg"))
    train, _test, class_names = open_folder(tmp_path / "own")
    assert class_names == ("a", "b", "c")
    assert len(train) == 3


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["notes.txt"], r"want at least 2 images in .*, got 0 with a suffix of \.jpg"),
        (["one.jpg"], "want at least 2 images in .*, got 1 "),
        (
            ["train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg", "test/a/1.jpg"],
            "want every class of .*test in .*train too, got c in the test split only",
        ),
        (
            ["train/a/1.jpg", "train/b/1.jpg", "val/1.jpg"],
            "want classes in both splits, got none in .*val",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, paths, message):
    with pytest.raises(ValueError, match=f"^data.source: {message}") as error:
        open_folder(lay_out(tmp_path, *paths))
    assert "\n" not in str(error.value)


def test_a_class_without_test_images_is_said(tmp_path, caplog):
    paths = ["train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg"]
    open_folder(lay_out(tmp_path, *paths, "test/a/2.jpg", "test/b/2.jpg"))
    (message,) = caplog.messages
    assert message.startswith(f"data.source: {tmp_path / 'test'} has no image of c: ")


def test_no_such_directory_or_no_permission(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"got .*gone: there is no such directory"):
        open_folder(tmp_path / "gone")
    lay_out(tmp_path, "file.jpg")
    with pytest.raises(ValueError, match=r"got .*file.jpg: it is no directory"):
        open_folder(tmp_path / "file.jpg")

    def refuse(path):
        raise PermissionError

    monkeypatch.setattr(os, "scandir", refuse)  # root may read anything
    with pytest.raises(ValueError, match="no permission to read it"):
        open_folder(tmp_path)


def test_natural_order():
    unsorted = ["b10", "b9", "a", "10", "9", "b9a"]
    assert sorted(unsorted, key=folders.natural_key) == [
        *("9", "10", "a", "b9", "b9a", "b10")
    ]
