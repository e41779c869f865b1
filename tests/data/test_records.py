"""Records: read by number, in any process, and not before they are wanted."""

import concurrent.futures
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from caco_jax.data import records as records_module
from caco_jax.data.records import (
    ArrayRecords,
    FolderRecords,
    Record,
    SourceGoneError,
    TfdsRecords,
)
from tests.data.tfds_files import write_set

CONTENTS = [f"image {index}".encode() for index in range(6)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    pairs = [(content, index % 2) for index, content in enumerate(CONTENTS)]
    return write_set(data_dir, "own", {"train": pairs}, class_names=["a", "b"])


def test_arrays():
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    records = ArrayRecords("set/train", images, np.array([4, 5], np.int32))
    assert len(records) == 2
    encoded, label, name, _ = pickle.loads(pickle.dumps(records))[1]
    np.testing.assert_array_equal(encoded, images[1])
    assert (label, name) == (5, "set/train[1]")
    assert ArrayRecords("x", images)[0].label == -1


def test_folder(tmp_path):
    paths = ["b/größe 1.jpg", "a/2.png"]
    for path in paths:
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_bytes(path.encode())
    records = FolderRecords(tmp_path, paths, np.array([1, 0], np.int32))
    for index, path in enumerate(paths):
        expected = Record(path.encode(), 1 - index, str(tmp_path / path))
        assert pickle.loads(pickle.dumps(records))[index] == expected
    assert FolderRecords(tmp_path, paths)[0].label == -1


def test_a_missing_file_is_named_when_it_is_wanted(tmp_path):
    records = FolderRecords(tmp_path, ["gone.jpg"])
    with pytest.raises(OSError, match=r"gone\.jpg"):
        records[0]


@pytest.fixture
def folder(tmp_path):
    names = [f"{index}.jpg" for index in range(20)]
    (tmp_path / "drive").mkdir()
    for name in names:
        (tmp_path / "drive" / name).write_bytes(b"content")
    return FolderRecords(tmp_path / "drive", names)


@pytest.mark.parametrize("broken", [None, "/nowhere/picture.jpg", "3.jpg"])
def test_one_missing_file_is_not_waited_for(folder, monkeypatch, broken):
    path = pathlib.Path(folder.path(3))
    path.unlink()
    if broken is not None:  # a link to nothing, and one to itself
        path.symlink_to(broken)
    monkeypatch.setattr(records_module.time, "sleep", pytest.fail)
    with pytest.raises(OSError, match=r"3\.jpg"):
        folder[3]
    assert folder[4].encoded == b"content"


def test_a_drive_that_comes_back_is_waited_for(folder, monkeypatch, caplog):
    drive = pathlib.Path(folder.path(0)).parent
    away = drive.rename(drive.with_name("away"))
    drive.mkdir()  # as a mount point is without its drive
    monkeypatch.setattr(
        records_module.time,
        "sleep",
        lambda seconds: (drive.rmdir(), away.rename(drive)),
    )
    assert folder[7].encoded == b"content"
    assert f"nothing in {drive} can be read: waiting 30 s for it" in caplog.text


def test_a_drive_that_stays_away_is_no_bad_picture(folder, monkeypatch):
    monkeypatch.setattr(records_module, "WAIT_SECONDS", 0)
    drive = pathlib.Path(folder.path(0)).parent
    drive.rename(drive.with_name("away"))
    with pytest.raises(SourceGoneError, match=r"^data.source: nothing in .*drive can"):
        folder[7]


def test_a_prepared_set_that_went_away(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(records_module, "WAIT_SECONDS", 0)
    records = TfdsRecords(tmp_path / "gone", "train", count=6)
    with pytest.raises(SourceGoneError, match=r"nothing in .*gone can be read"):
        records[0]
    there = TfdsRecords(prepared, "train", count=9)
    with pytest.raises(OSError, match=r"train\[8\]: cannot be read: "):
        there[8]


def test_tfds(prepared):
    records = TfdsRecords(prepared, "train", count=6)
    assert len(records) == 6
    for copy in (records, pickle.loads(pickle.dumps(records))):
        for index in (4, 0):
            name = f"{prepared}/train[{index}]"
            assert copy[index] == Record(CONTENTS[index], index % 2, name)
    reopened = pickle.loads(pickle.dumps(records))  # now that it is open
    assert reopened[5].encoded == CONTENTS[5]
    unlabelled = TfdsRecords(prepared, "train", count=6, label_key=None)
    assert unlabelled[1].label == -1


def test_a_part_of_a_split(prepared):
    records = TfdsRecords(prepared, "train[2:5]", count=3)
    assert [record.encoded for record in map(records.__getitem__, range(3))] == (
        CONTENTS[2:5]
    )


def test_threads_open_a_set_once(prepared):
    records = TfdsRecords(prepared, "train", count=6)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        read = list(threads.map(lambda index: records[index % 6].encoded, range(60)))
    assert read == CONTENTS * 10


def test_a_worker_imports_neither_tensorflow_nor_jax(prepared):
    """In a process that has never heard of either, as workers are."""
    records = pickle.dumps(TfdsRecords(prepared, "train", count=6))
    program = (
        "import pickle, sys; import caco_jax.data.decode; "
        f"assert pickle.loads({records!r})[3].encoded == {CONTENTS[3]!r}; "
        "sys.exit(', '.join({'tensorflow', 'jax'} & set(sys.modules)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
