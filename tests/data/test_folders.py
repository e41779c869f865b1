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
    train, test, class_names, _ = open_folder(tmp_path)
    assert names(train, tmp_path) == ["1.webp", "9.PNG", "10.jpg", "b.jpeg"]
    assert test is None
    assert class_names == ()
    assert labels(train) == [-1] * 4


def test_sub_folders_are_classes_and_a_tenth_is_held_out(tmp_path):
    paths = [f"cat{c}/{i}.jpg" for c in (2, 10) for i in range(25)]
    lay_out(tmp_path, *paths, "rare/deep/1.jpg", ".cache/1.jpg", "empty/readme.md")
    train, test, class_names, _ = open_folder(tmp_path, seed=3)
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
    train, test, class_names, _ = open_folder(lay_out(tmp_path, *paths))
    assert names(train, tmp_path) == list(paths)
    assert test is None
    assert class_names == ()


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_split_folders(tmp_path, name):
    lay_out(tmp_path, "train/b/1.jpg", "train/a/2.jpg", f"{name}/a/3.jpg")
    train, test, class_names, _ = open_folder(tmp_path)
    assert class_names == ("a", "b")
    assert names(train, tmp_path) == ["train/a/2.jpg", "train/b/1.jpg"]
    assert names(test, tmp_path) == [f"{name}/a/3.jpg"]
    assert labels(train) == [0, 1]
    assert labels(test) == [0]


def test_splits_by_name(tmp_path):
    lay_out(tmp_path, *(f"{split}/{c}/1.jpg" for split in "xyz" for c in "ab"))
    train, test, _, _ = open_folder(tmp_path, train_split="y", test_split="x")
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
    train, test, _, _ = open_folder(tmp_path)
    assert (len(train), len(test)) == (6, 2)


def test_unlabelled_training_images_need_no_test_split(tmp_path):
    lay_out(tmp_path, "train/1.jpg", "train/2.jpg", "test/a/1.jpg")
    train, test, class_names, _ = open_folder(tmp_path)
    assert (len(train), test, class_names) == (2, None, ())
    with pytest.raises(
        ValueError, match=r"expected classes in both splits, got none in .*train"
    ):
        open_folder(tmp_path, test_split="test")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *[("Training", "Testing"), ("Train", "Test"), ("TRAINING_SET", "Dev")],
        *[("train", "valid"), ("train2017", "val2017"), ("trainset", "test-images")],
        *[("TrainSet", "HoldOut"), ("01_train", "02 Validation"), ("trainval", "tst")],
    ],
)
def test_splits_by_any_usual_name(tmp_path, train, test):
    lay_out(
        tmp_path,
        *(f"{s}/{c}/{i}.jpg" for s in (train, test) for c in "ab" for i in "12"),
    )
    splits = open_folder(tmp_path)
    assert splits.class_names == ("a", "b")
    assert {path.split("/")[0] for path in names(splits.train, tmp_path)} == {train}
    assert {path.split("/")[0] for path in names(splits.test, tmp_path)} == {test}
    assert f"trained on: {train}; held out: {test}" in splits.notes


@pytest.mark.parametrize(
    ("paths", "what"),
    [
        (["test/a/1.jpg", "Val/a/1.jpg"], "Val, test without a training split"),
        (["cat/1.jpg", "dog/1.jpg", "test/1.jpg"], "test without a training split"),
        (["train/a/1.jpg", "Train/a/1.jpg"], "Train, train may each be trained on"),
        (["train/1.jpg", "bus/1.jpg"], "train may be a split or a class"),
        (["fold1/a/1.jpg", "fold2/a/1.jpg"], "fold1, fold2 may be splits or classes"),
        (["x_train/1.jpg", "x_test/1.jpg"], "x_test, x_train may be splits or classes"),
        (
            ["cat/train/1.jpg", "cat/test/1.jpg", "dog/train/1.jpg"],
            "splits lie below c",
        ),
        (["photos/Train/a/1.jpg", "photos/Test/a/1.jpg"], "splits lie below photos"),
    ],
)
def test_what_looks_like_splits_is_asked_about(tmp_path, paths, what):
    lay_out(tmp_path, *paths)
    with pytest.raises(ValueError, match=rf"^data\.train_split: .*: {what}") as error:
        open_folder(tmp_path)
    assert "'.' where the sub-folders are classes" in str(error.value)
    classes = open_folder(tmp_path, train_split=".").class_names
    assert set(classes) <= {path.split("/")[0] for path in paths}


def test_a_class_may_be_called_somewhat_like_a_split(tmp_path):
    lay_out(tmp_path, "test_tube/1.jpg", "beaker/1.jpg", "flask/1.jpg", "val/read.me")
    assert open_folder(tmp_path).class_names == ("beaker", "flask", "test_tube")


def test_a_few_strays_do_not_cost_the_labels(tmp_path, caplog):
    lay_out(tmp_path, *(f"{c}/{i}.jpg" for c in "ab" for i in range(10)), "preview.jpg")
    splits = open_folder(tmp_path)
    assert splits.class_names == ("a", "b")
    assert splits.notes[1] == (
        "ignored: images beside the classes' folders, such as preview.jpg (1)"
    )
    lay_out(tmp_path, *(f"{i}.jpg" for i in range(10)))
    assert open_folder(tmp_path).class_names == ()
    assert "10 images" not in caplog.text
    assert "11 images lie beside the folders a, b of " in caplog.text


def test_what_a_system_leaves_is_no_class_and_is_said(tmp_path):
    system = ["@eaDir", "$RECYCLE.BIN", "#recycle", "__MACOSX", "lost+found", ".git"]
    lay_out(tmp_path, *(f"{c}/{i}.jpg" for c in "ab" for i in range(3)))
    lay_out(tmp_path, *(f"{name}/1.jpg" for name in system), "a/@eaDir/1.jpg/2.jpg")
    lay_out(tmp_path, "a/notes.txt", "labels.csv", "b/Thumbs.db", "b/7.psd", "LICENSE")
    os.mkfifo(tmp_path / "a/pipe.jpg")  # to open it would wait for ever
    (tmp_path / "loop").symlink_to("loop")
    splits = open_folder(tmp_path)
    assert splits.class_names == ("a", "b")
    assert len(splits.train) + len(splits.test) == 6
    (said,) = [note for note in splits.notes if note.startswith("ignored: ")]
    kinds = ["the system's @eaDir (2)", "the system's $RECYCLE.BIN (1)", ".txt (1)"]
    kinds += [".csv (1)", ".psd (1)", "files without a suffix (2)", "hidden files (1)"]
    for kind in [*kinds, "pipes and devices (1)"]:
        assert kind in said


def test_what_is_beside_the_splits_is_said(tmp_path):
    splits = ("train", "test", "val", "extra")
    lay_out(tmp_path, *(f"{split}/{c}/1.jpg" for split in splits for c in "ab"))
    notes = open_folder(tmp_path).notes
    assert notes[0] == "trained on: train; held out: test"
    for name in ("val", "extra"):
        assert f"images in {name}, which is not used (2)" in notes[1]


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
    train, test, class_names, _ = open_folder(tmp_path)
    assert class_names == ("n1", "n2")
    assert labels(train) == [0, 0, 1, 1]
    assert names(test, tmp_path) == ["val/images/val_0.JPEG", "val/images/val_1.JPEG"]
    assert labels(test) == [1, 0]


def test_links_that_go_round_end(tmp_path):
    lay_out(tmp_path / "own", "a/1.jpg", "b/2.jpg")
    (tmp_path / "own/b/again").symlink_to(tmp_path / "own/b")
    (tmp_path / "own/c").symlink_to(lay_out(tmp_path / "else", "3.jpg"))
    train, _test, class_names, _ = open_folder(tmp_path / "own")
    assert class_names == ("a", "b", "c")
    assert len(train) == 3


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["notes.txt"], r"expected images in .*, got none with a suffix of \.jpg"),
        (
            ["train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg", "test/a/1.jpg"],
            "expected every class of .*test in .*train too, got c in the test split "
            "only",
        ),
        (
            ["train/a/1.jpg", "train/b/1.jpg", "val/1.jpg"],
            "expected classes in both splits, got none in .*val",
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
