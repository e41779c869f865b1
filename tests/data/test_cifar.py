"""CIFAR's batches in both formats, and pickles that would call a function."""

import functools
import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from caco_jax.data import sources
from caco_jax.schema import ConfigError

PY = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
BIN = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
COUNT = {"cifar10": 10, "cifar100": 100}
NAMES = {kind: [f"class{c}" for c in range(count)] for kind, count in COUNT.items()}


@functools.cache
def batch(seed, kind, rows=2):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, COUNT[kind], rows)
    return rng.integers(0, 256, (rows, 3072), dtype=np.uint8), labels


def batches(kind):
    names = (
        ["train"] if kind == "cifar100" else [f"data_batch_{i}" for i in range(1, 6)]
    )
    names += ["test" if kind == "cifar100" else "test_batch"]
    return {name: batch(seed, kind) for seed, name in enumerate(names)}


def pickled(kind, images, labels, **more):
    key = b"labels" if kind == "cifar10" else b"fine_labels"
    values = {b"data": images, key: [int(label) for label in labels], **more}
    return pickle.dumps(values, protocol=2)


def python_files(kind):
    files = {name: pickled(kind, *made) for name, made in batches(kind).items()}
    meta = {"cifar10": "batches.meta", "cifar100": "meta"}[kind]
    key = {"cifar10": "label_names", "cifar100": "fine_label_names"}[kind]
    return {**files, meta: pickle.dumps({key: NAMES[kind]}, protocol=2)}


def binary_files(kind):
    def content(images, labels):
        columns = [labels[:, None].astype(np.uint8), images]
        if kind == "cifar100":
            columns.insert(0, np.full((len(labels), 1), 7, np.uint8))
        return np.concatenate(columns, axis=1).tobytes()

    files = {f"{name}.bin": content(*made) for name, made in batches(kind).items()}
    meta = {"cifar10": "batches.meta.txt", "cifar100": "fine_label_names.txt"}[kind]
    return {**files, meta: "\n".join([*NAMES[kind], "", ""]).encode()}


MAKE = {"python": (python_files, PY), "binary": (binary_files, BIN)}


def write(root, files):
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


def pack(path, files, folder):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize("place", ["folder", "around", "archive"])
def test_images_and_classes_are_those_of_the_batches(tmp_path, kind, form, place):
    make, folders = MAKE[form]
    if place == "archive":
        pack(tmp_path / "set.tar.gz", make(kind), folders[kind])
        source = f"{kind}:set.tar.gz"
    else:
        write(tmp_path / folders[kind], make(kind))
        source = f"{kind}:{folders[kind] if place == 'folder' else '.'}"
    found = sources.load(source, data_dir=tmp_path)
    assert (found.name, found.class_names) == (source, tuple(NAMES[kind]))
    *train, test = batches(kind).values()
    rows = np.concatenate([images for images, _ in train])
    # Planes of red, green and blue, each by rows: the formula of the home page.
    n, y, x, c = np.ogrid[: len(rows), :32, :32, :3]
    np.testing.assert_array_equal(found.train_examples, rows[n, 1024 * c + 32 * y + x])
    np.testing.assert_array_equal(
        found.train_labels, np.concatenate([labels for _, labels in train])
    )
    np.testing.assert_array_equal(found.test_labels, test[1])
    assert found.test_examples[1, 2, 3, 2] == test[0][1, 2048 + 64 + 3]


def test_python_2_wrote_the_real_ones(tmp_path):
    # What Python 2 pickled: byte strings, also as the content of an array.
    def array(images):
        head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01bt"
        dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        dtype += b"J\xff\xff\xff\xffK\x00tb"
        content = b"T" + len(images.tobytes()).to_bytes(4, "little") + images.tobytes()
        shape = b"(K" + bytes([len(images)]) + b"M\x00\x0ct"
        return head + b"R(K\x01" + shape + dtype + b"\x89" + content + b"tb"

    def content(images, labels):
        numbers = b"".join(b"K" + bytes([label]) for label in labels)
        return (
            b"\x80\x02}(U\x04data" + array(images) + b"U\x06labels](" + numbers + b"eu."
        )

    files = {name: content(*made) for name, made in batches("cifar10").items()}
    found = sources.load(f"cifar10:{write(tmp_path / 'set', files)}")
    images, labels = batches("cifar10")["test_batch"]
    assert found.class_names == tuple("0123456789")  # there is no file of names
    np.testing.assert_array_equal(found.test_labels, labels)
    np.testing.assert_array_equal(found.test_examples[0, 0, :, 0], images[0, :32])


class Calls:
    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


class CallsCodec:
    def __reduce__(self):
        import codecs

        return codecs.encode, ("text", "rot13")


IMAGES, CLASSES = batch(5, "cifar10")
good = functools.partial(pickled, "cifar10")
FAULTS = {
    "calls": (pickle.dumps(Calls(), 2), r"UnpicklingError: it calls \w+\.mkdir;"),
    "calls beside": (
        good(IMAGES, CLASSES, more=Calls()),
        r"UnpicklingError: it calls \w+\.mkdir; download it again",
    ),
    "codec": (pickle.dumps(CallsCodec(), 2), "encodes something other than bytes"),
    "global": (pickle.dumps({b"data": np.save}, 2), "UnpicklingError: it calls numpy"),
    "cut": (
        good(IMAGES, CLASSES)[:-300],
        "expected a batch of CIFAR, got .*test_batch",
    ),
    "empty": (b"", "got .*test_batch: EOFError"),
    "html": (b"<html></html>", "expected a batch of CIFAR, got .*test_batch: "),
    "a list": (pickle.dumps([1], 2), "a dictionary, got .*: a list; download"),
    "floats": (good(IMAGES / 255, CLASSES), r"bytes \[N, 3072\].*got no such array"),
    "objects": (good(IMAGES.astype(object), CLASSES), "got no such array"),
    "by columns": (good(np.asfortranarray(IMAGES), CLASSES), "got no such array"),
    "narrow": (good(IMAGES[:, :3000].copy(), CLASSES), r"got \(2, 3000\); download"),
    "no data": (pickle.dumps({b"labels": [1]}, 2), "got no such array"),
    "fewer labels": (good(IMAGES, CLASSES[:1]), "got 2 images and 1 labels"),
    "no images": (
        pickle.dumps({b"data": IMAGES[:0], b"labels": []}, 4),
        "got 0 images and 0 labels",
    ),
    "class": (good(IMAGES, [3, 10]), "expected classes 0 to 9 .*got 3 to 10"),
    "long class": (good(IMAGES[:1], [10**30]), "expected classes 0 to 9"),
    "other set": (
        pickled("cifar100", IMAGES, CLASSES),
        "expected 'labels', a list of numbers, in .*, got data, fine_labels; check",
    ),
    "texts": (
        pickle.dumps({b"data": IMAGES, b"labels": ["a", "b"]}, 2),
        "expected 'labels', a list of numbers",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_batch_that_does_not_fit_is_named_in_one_line(tmp_path, monkeypatch, fault):
    monkeypatch.chdir(tmp_path)
    content, message = FAULTS[fault]
    write(tmp_path / "set", {**python_files("cifar10"), "test_batch": content})
    with pytest.raises(ConfigError, match=rf"^data\.source: .*{message}") as e:
        sources.load("cifar10:set")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "made_by_a_pickle").exists()


def test_a_binary_batch_has_whole_records_of_its_kind(tmp_path):
    files = binary_files("cifar10")
    for content, message in [
        (files["test_batch.bin"][:-1], "records of 3,073 bytes, got .* of 6,145 bytes"),
        (b"", "records of 3,073 bytes, got .*test_batch.bin of 0 bytes"),
        (b"\x0b" + bytes(3072), "expected classes 0 to 9 in .*, got 11 to 11"),
    ]:
        write(tmp_path / "set", {**files, "test_batch.bin": content})
        with pytest.raises(ConfigError, match=message):
            sources.load(f"cifar10:{tmp_path / 'set'}")


def test_a_missing_batch_is_named(tmp_path):
    files = python_files("cifar10")
    del files["data_batch_4"]
    write(tmp_path / "set", files)
    with pytest.raises(
        ConfigError, match=r"expected data_batch_4 of cifar10 in .*, got"
    ):
        sources.load(f"cifar10:{tmp_path / 'set'}")


def test_a_path_with_something_else_says_what_is_wanted(tmp_path):
    with pytest.raises(
        ConfigError, match=r"expected cifar10's batches, got .*: no such"
    ):
        sources.load(f"cifar10:{tmp_path / 'nowhere'}")
    with pytest.raises(ConfigError, match="none of its batches there; name a folder"):
        sources.load(f"cifar10:{tmp_path}")
    pack(tmp_path / "cifar-10-python.tar.gz", python_files("cifar10"), "x")
    with pytest.raises(
        ConfigError, match=r"write cifar10:.*/cifar-10-python\.tar\.gz$"
    ):
        sources.load(f"cifar10:{tmp_path}")
    other = write(tmp_path / "other", python_files("cifar100"))
    with pytest.raises(
        ConfigError, match=f"looks like cifar100: write cifar100:{other}"
    ):
        sources.load(f"cifar10:{other}")
    with pytest.raises(
        ValueError, match="after cifar10: expected a directory, got nothing"
    ):
        sources.load("cifar10:")


def test_a_damaged_archive_is_named_in_one_line(tmp_path):
    path = pack(tmp_path / "set.tar.gz", python_files("cifar10"), PY["cifar10"])
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:20], b"no archive", b""):
        path.write_bytes(content)
        with pytest.raises(
            ConfigError, match=r"^data\.source: expected .*download"
        ) as e:
            sources.load(f"cifar10:{path}")
        assert "\n" not in str(e.value)


def test_links_and_paths_in_an_archive_are_not_followed(tmp_path):
    path = pack(tmp_path / "set.tar.gz", python_files("cifar10"), "../../elsewhere")
    assert sources.load(f"cifar10:{path}").train_count == 10
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.tar.gz"]
    (tmp_path / "secret").write_bytes(python_files("cifar10")["test_batch"])
    files = python_files("cifar10")
    del files["test_batch"]
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("test_batch")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(link)
    with pytest.raises(ConfigError, match="expected test_batch of cifar10 in"):
        sources.load(f"cifar10:{path}")
