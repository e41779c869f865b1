"""Records: read by number, in any process, and not before they are wanted."""

import concurrent.futures
import pickle
import subprocess
import sys

import numpy as np
import pytest

from caco_jax.data.records import ArrayRecords, FolderRecords, Record, TfdsRecords
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
    encoded, label, name = pickle.loads(pickle.dumps(records))[1]
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
