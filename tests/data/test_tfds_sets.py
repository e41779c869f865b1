"""Prepared TFDS sets: found by name, config and version, or one line that says why."""

import json
from pathlib import Path

import pytest

from caco_jax.data.tfds_sets import find_directory, is_prepared, open_tfds
from tests.data.tfds_files import write_set

PAIRS = [(b"encoded", 0), (b"another", 1)]
NAMES = {"class_names": ["a", "b"]}


def test_the_newest_version_is_found(tmp_path):
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        write_set(tmp_path, "own", {"train": PAIRS}, version=version)
    (tmp_path / "own" / "incomplete.ABC_2.0.0").mkdir()
    (tmp_path / "own" / "2.0.0").mkdir()  # nothing in it
    assert find_directory("own", tmp_path).name == "1.10.0"
    assert find_directory("own:1.2.0", tmp_path).name == "1.2.0"
    assert is_prepared("own", tmp_path)
    assert not is_prepared("own:2.0.0", tmp_path)
    there = "own/1.10.0, own/1.2.0, own/1.9.0"
    with pytest.raises(
        ValueError, match=rf"\({there}\), got tfds:own:2.0.0; to prepare it: .*2"
    ):
        find_directory("own:2.0.0", tmp_path)


def test_configs(tmp_path):
    write_set(tmp_path, "own/2007", {"train": PAIRS})
    assert find_directory("own", tmp_path) == tmp_path / "own/2007/1.0.0"
    write_set(tmp_path, "own/2012", {"train": PAIRS})
    assert find_directory("own/2007:1.0.0", tmp_path).parent.name == "2007"
    with pytest.raises(ValueError, match=r"as in tfds:own/2007, got .*: 2007, 2012"):
        find_directory("own", tmp_path)


def test_a_missing_set_names_the_command(tmp_path):
    command = f"caco prepare --dataset=tfds:cifar10 --data_dir={tmp_path}"
    with pytest.raises(
        ValueError, match=r"^data.source: expected a set .* got tfds:cifar10"
    ) as error:
        open_tfds("cifar10", tmp_path)
    assert str(error.value).endswith(f"; to prepare it: {command}")
    with pytest.raises(ValueError, match=r"^data.data_dir: .*got None.*data_dir=DIR$"):
        open_tfds("cifar10", None)
    with pytest.raises(ValueError, match=r"expected NAME, NAME/CONFIG or .* got 'a b'"):
        open_tfds("a b", tmp_path)


def test_no_permission(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", refuse)  # root may read anything
    with pytest.raises(
        ValueError, match=r"^data.data_dir: no permission to read .*own"
    ):
        open_tfds("own", tmp_path)


@pytest.mark.parametrize(
    ("name", "there", "train", "test", "labelled"),
    [
        ("own", ["train", "test", "validation"], "train", "test", None),
        ("own", ["train", "validation"], "train", "validation", None),
        ("own", ["train"], "train", None, None),
        ("imagenet2012", ["train", "test", "validation"], "train", "validation", None),
        ("stl10", ["train", "test", "unlabelled"], "unlabelled", "test", "train"),
        ("voc/2007", ["train", "test", "validation"], "train+validation", "test", None),
    ],
)
def test_usual_splits(tmp_path, name, there, train, test, labelled):
    splits = {split: [(split.encode(), 0)] * 2 for split in there}
    write_set(tmp_path, name, splits, **NAMES)
    found = open_tfds(name, tmp_path)
    first = train.partition("+")[0].encode()
    assert found.train[0].encoded == first
    assert len(found.train) == 2 * (1 + train.count("+"))
    for records, split in ((found.test, test), (found.labelled, labelled)):
        assert (records and records[1].encoded) == (split and split.encode())
    assert found.class_names == ("a", "b")
    assert found.shape is None


def test_named_splits(tmp_path):
    splits = {"train": PAIRS * 5, "test": PAIRS, "extra": PAIRS * 2}
    write_set(tmp_path, "own", splits, **NAMES)
    found = open_tfds("own", tmp_path, train_split="train[:40%]", test_split="extra")
    assert (len(found.train), len(found.test)) == (4, 4)
    for key in ("train_split", "test_split"):
        with pytest.raises(
            ValueError, match=rf"^data.{key}: .*train, test, extra, .* got 'val'"
        ):
            open_tfds("own", tmp_path, **{key: "val"})


def test_a_set_without_images_says_what_it_has(tmp_path):
    directory = write_set(tmp_path, "own", {"train": PAIRS}, **NAMES)
    config = json.loads((directory / "features.json").read_text())
    features = config["featuresDict"]["features"]
    features["sound"] = {
        "pythonClassName": "tensorflow_datasets.core.features.text_feature.Text",
        "text": {},
    }
    del features["image"]
    (directory / "features.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="got tfds:own with the features label, sound"):
        open_tfds("own", tmp_path)


def test_another_format_says_how_to_get_array_record(tmp_path):
    directory = write_set(tmp_path, "own", {"train": PAIRS}, **NAMES)
    info = json.loads((directory / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (directory / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"in array_record, got tfrecord; remove it"):
        open_tfds("own", tmp_path)
