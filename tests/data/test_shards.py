"""Tar shards: what is in them, by whom they are held out, and what is no shard."""

import gzip
import io
import json
import os
import pickle
import tarfile

import cv2
import numpy as np
import pytest

from caco_jax.data import records as records_module
from caco_jax.data.dataset import ArrayDataset, RecordDataset
from caco_jax.data.decode import decode_image
from caco_jax.data.records import BadImageError
from caco_jax.data.shards import expand_braces, open_shards
from caco_jax.data.sources import load


def png(value, *, width=6):
    return cv2.imencode(".png", np.full((5, width, 3), value, np.uint8))[1].tobytes()


def write_tar(path, members):
    """A tar file of (name, content) in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples(values, *, label=lambda value: str(value % 2).encode()):
    for value in values:
        yield f"{value:03}.png", png(value)
        if label is not None:
            yield f"{value:03}.cls", label(value)


def values_of(records):
    """The grey level of each picture, by its number."""
    return [int(decode_image(records[row])[0, 0, 0]) for row in range(len(records))]


def write_set(folder, *, name="shard-{:06}.tar", counts=(8, 8, 4)):
    first = 0
    for number, count in enumerate(counts):
        write_tar(folder / name.format(number), samples(range(first, first + count)))
        first += count
    return folder


def test_a_tenth_of_each_class_is_held_out(tmp_path):
    splits = open_shards(write_set(tmp_path))
    assert splits.class_names == ("0", "1")
    train, test = values_of(splits.train), values_of(splits.test)
    assert sorted(train + test) == list(range(20))
    assert sorted(value % 2 for value in test) == [0, 1]
    for records, values in ((splits.train, train), (splits.test, test)):
        assert [records[row].label for row in range(len(records))] == [
            value % 2 for value in values
        ]
    assert splits.notes == (
        "trained on: 3 shards, shard-000000.tar to shard-000002.tar; held out: a tenth "
        "of each class",
    )


def test_records_are_read_in_any_order_by_any_process(tmp_path):
    path = write_tar(tmp_path / "a.tar", samples(range(5), label=None))
    records = pickle.loads(pickle.dumps(open_shards(path).train))
    assert [values_of(records)[row] for row in (4, 0, 2)] == [4, 0, 2]
    assert records[3].name == f"{path}/003.png"
    assert records[3].label == -1


@pytest.mark.parametrize(
    ("source", "values"),
    [
        ("wds:", range(20)),
        ("wds:shard-{000000..000001}.tar", range(16)),
        ("wds:shard-{000000,000002}.tar", [*range(8), *range(16, 20)]),
        ("wds:shard-000001.tar", range(8, 16)),
    ],
)
def test_shards_are_a_source(tmp_path, source, values):
    write_set(tmp_path / "set")
    kind, _, rest = source.partition(":")
    dataset = load(f"{kind}:set/{rest}", data_dir=tmp_path)
    assert isinstance(dataset, ArrayDataset)  # small pictures of one size
    everything = [*dataset.train_examples, *dataset.test_examples]
    assert sorted(int(image[0, 0, 0]) for image in everything) == list(values)
    streamed = load(f"{kind}:set/{rest}", data_dir=tmp_path, max_resident_bytes=0)
    assert isinstance(streamed, RecordDataset)
    np.testing.assert_array_equal(
        values_of(streamed.train), dataset.train_examples[:, 0, 0, 0]
    )


@pytest.mark.parametrize(
    "names",
    [
        ("imagenet-train-{:06}.tar", "imagenet-val-{:06}.tar"),
        ("train/{:03}.tar", "validation/{:03}.tar"),
    ],
)
def test_names_say_what_is_held_out(tmp_path, names):
    for name, first in zip(names, (0, 100), strict=True):
        values = range(first, first + 6)
        write_tar(tmp_path / name.format(0), samples(values))
    splits = open_shards(tmp_path)
    assert values_of(splits.train) == list(range(6))
    assert values_of(splits.test) == list(range(100, 106))


def test_what_is_held_out_can_be_named(tmp_path):
    write_set(tmp_path)
    splits = open_shards(
        tmp_path,
        train_split="shard-{000000..000001}.tar",
        test_split="shard-000002.tar",
    )
    assert values_of(splits.train) == list(range(16))
    assert values_of(splits.test) == list(range(16, 20))


def test_keys_bring_together_what_belongs_together(tmp_path):
    def labelled(label):
        return json.dumps({"label": label, "caption": "x"}).encode()

    members = [
        ("./deep/a.PNG", png(1)),
        ("./deep/a.json", labelled("cat")),
        ("./deep/b.json", labelled("dog")),
        ("./deep/b.seg.png", png(2)),
        ("other/b.png", png(3)),
        ("other/b.txt", b"a caption"),
        ("other/b.cls", b"cat\n"),
        ("other/b.jpg", png(9)),  # a second image of a key
        ("other/._b.png", b"of macOS"),
        ("x" * 200 + ".png", png(4)),  # a name longer than a header holds
        ("x" * 200 + ".json", labelled("dog")),
    ]
    splits = open_shards(write_tar(tmp_path / "a.tar", members))
    assert splits.class_names == ("cat", "dog")
    parts = (splits.train, splits.test)
    found = {
        value: splits.class_names[part[row].label]
        for part in parts
        for row, value in enumerate(values_of(part))
    }
    assert found == {1: "cat", 2: "dog", 3: "cat", 4: "dog"}
    assert splits.notes[1] == "ignored: .txt (1), .jpg (1), hidden files (1)"


def test_classes_are_in_the_order_of_their_numbers(tmp_path):
    def numbered(value):
        return str(value * 5).encode()

    path = write_tar(tmp_path / "a.tar", samples([2, 0, 1], label=numbered))
    splits = open_shards(path)
    assert splits.class_names == ("0", "5", "10")
    assert [splits.train[row].label for row in range(3)] == [2, 0, 1]


def test_braces_are_a_shells():
    assert list(expand_braces("a")) == ["a"]
    assert list(expand_braces("{a,b}-{08..10}.tar")) == [
        f"{letter}-{number}.tar" for letter in "ab" for number in ("08", "09", "10")
    ]


def test_a_shard_that_was_cut_since_has_bad_records(tmp_path):
    path = write_tar(tmp_path / "a.tar", samples(range(4), label=None))
    records = open_shards(path).train
    os.truncate(path, 512 + len(png(0)))
    assert records[0].encoded == png(0)
    with pytest.raises(BadImageError, match=r"a\.tar/003\.png: the shard ends within"):
        records[3]


def test_shards_that_went_away_are_a_drive_that_did(tmp_path, monkeypatch):
    monkeypatch.setattr(records_module, "WAIT_SECONDS", 0.0)
    records = open_shards(write_set(tmp_path / "set")).train
    (tmp_path / "set").rename(tmp_path / "gone")
    with pytest.raises(
        records_module.SourceGoneError, match=r"nothing in .*set can be"
    ):
        records[0]
    (tmp_path / "set").mkdir()
    (tmp_path / "gone" / "shard-000001.tar").rename(tmp_path / "set/shard-000001.tar")
    again = pickle.loads(pickle.dumps(records))
    with pytest.raises(FileNotFoundError):  # one shard alone is skipped
        again[0]


def wrong(folder, kind):
    path = folder / "a.tar"
    if kind == "nothing":
        return path
    if kind == "empty folder":
        (folder / "notes.txt").write_text("")
        return folder
    write_tar(path, samples(range(4)))
    content = path.read_bytes()
    if kind == "compressed":
        path.write_bytes(gzip.compress(content))
    elif kind == "cut":
        path.write_bytes(content[: 512 + 100])
    elif kind == "cut header":
        path.write_bytes(content[: 1024 + 700])
    elif kind == "no tar":
        path.write_bytes(b"<html>not found</html>" * 100)
    elif kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "no image":
        write_tar(path, [("a.txt", b"words"), ("b.txt", b"words")])
    elif kind == "a label missing":
        write_tar(path, [*samples([0, 1]), ("2.png", png(2))])
    elif kind == "held out only":
        write_tar(folder / "train.tar", samples([0, 2]))
        write_tar(folder / "val.tar", samples([0, 1]))
        path.unlink()
        return folder
    elif kind == "no training shards":
        path.rename(folder / "val-0.tar")
        write_tar(folder / "b.tar", samples([5]))
        return folder
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "nothing",
            "data.source: expected tar files, a folder of them, or several as in ",
        ),
        ("empty folder", r"got .*: no \.tar files in it"),
        ("compressed", r"a\.tar: it is compressed; gunzip it, because images are r"),
        (
            "cut",
            r"data\.source: expected a tar file that can be read to its end, got "
            r".*a\.ta",
        ),
        ("cut header", "expected a tar file that can be read to its end"),
        ("no tar", "expected a tar file that can be read to its end"),
        ("zero bytes", "expected a tar file that can be read to its end"),
        ("no image", r"expected images in .*, got none; ignored: \.txt \(2\)"),
        ("a label missing", r"got 1 images without, such as 2\.png of .*a\.tar"),
        (
            "held out only",
            r"expected the classes of train\.tar in val\.tar too, got 1 held",
        ),
        (
            "no training shards",
            "val shards without training shards; name them here and",
        ),
    ],
)
def test_what_is_no_set_of_shards_is_refused_in_a_line(tmp_path, kind, message):
    with pytest.raises(ValueError, match=message) as refused:
        load(f"wds:{wrong(tmp_path, kind)}")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("data.")


def test_a_held_out_part_alone_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"^data\.train_split: expected the shards to train"
    ):
        open_shards(write_set(tmp_path), test_split="shard-000002.tar")
    with pytest.raises(
        ValueError, match=r"^data\.test_split: expected tar files, a folder"
    ):
        open_shards(tmp_path, train_split="shard-000000.tar", test_split="no.tar")
