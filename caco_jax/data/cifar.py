"""Reader of CIFAR-10 and CIFAR-100 as downloaded: Python or binary, packed or not.

Python's batches are pickles, which can run any code. They are read here without running
anything: the only names that a pickle may use are those that an array of bytes needs,
and these are replaced by harmless classes.

References:
    Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from caco_jax.data.dataset import ArrayDataset
from caco_jax.schema import ConfigError, one_line, require

_PIXELS = 3 * 32 * 32
# Limit in bytes, larger than any of the files.
_MOST_BYTES = 2**29


class _Layout(NamedTuple):
    """The file layout of a set.

    Attributes:
        folders: names of the unpacked Python folder and of the binary one.
        train: names of the training batches in the Python format.
        test: names of the test batches in the Python format.
        names: the file of the class names, Python's and the binary one, and the key in
            the former.
        labels: key of the labels in a batch.
        label_bytes: number of bytes before the pixels of a binary record; the last one
            is the class.
        classes: number of classes.
    """

    folders: tuple[str, str]
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: tuple[str, str, bytes]
    labels: bytes
    label_bytes: int
    classes: int


LAYOUTS = {
    "cifar10": _Layout(
        ("cifar-10-batches-py", "cifar-10-batches-bin"),
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",),
        ("batches.meta", "batches.meta.txt", b"label_names"),
        b"labels",
        1,
        10,
    ),
    "cifar100": _Layout(
        ("cifar-100-python", "cifar-100-binary"),
        ("train",),
        ("test",),
        ("meta", "fine_label_names.txt", b"fine_label_names"),
        b"fine_labels",
        2,
        100,
    ),
}


class _Files(NamedTuple):
    """The files of a folder or archive.

    Attributes:
        where: path of the folder or archive.
        read: functions that read each file, by its name without folders.
    """

    where: Path
    read: Mapping[str, Callable[[], bytes]]


def open_cifar(kind: str, path: Path, *, name: str) -> ArrayDataset:
    """Reads CIFAR-10 or CIFAR-100 from the files of its home page.

    Args:
        kind: "cifar10", or "cifar100" with its 100 fine classes.
        path: the archive as downloaded (``cifar-10-python.tar.gz``,
            ``cifar-10-binary.tar.gz``), the folder that it unpacks to, or the folder
            around that. An archive is read where it is; nothing is unpacked.
        name: of the set in messages and in the record of a run.

    Returns:
        Images uint8 [M, 32, 32, 3]; classes by name, or by number where the file of
        their names is missing.

    Raises:
        ConfigError: a file is missing, damaged, cut short, or of another kind; a pickle
            would call a function.
    """
    layout = LAYOUTS[kind]
    files = _files(kind, path)
    binary = f"{layout.test[0]}.bin" in files.read and layout.test[0] not in files.read
    parts = []
    for batches in (layout.train, layout.test):
        found = []
        for batch in batches:
            file = f"{batch}.bin" if binary else batch
            require(
                file in files.read,
                f"data.source: expected {file} of {kind} in {files.where}, got none; "
                "download the set again, or name the folder that has it",
            )
            parse = _binary_batch if binary else _pickled_batch
            found.append(parse(_content(files, file), f"{files.where}/{file}", layout))
        images, labels = (np.concatenate(part) for part in zip(*found, strict=True))
        planes = images.reshape(-1, 3, 32, 32)
        parts.append((np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels))
    (train_images, train_labels), (test_images, test_labels) = parts
    return ArrayDataset(
        name=name,
        train_examples=train_images,
        train_labels=train_labels,
        test_examples=test_images,
        test_labels=test_labels,
        class_names=_class_names(files, layout, binary=binary),
    )


# Folders and archives


def _files(kind: str, path: Path) -> _Files:
    layout = LAYOUTS[kind]
    if path.is_file():
        return _archive(path)
    batches = (*layout.train, *layout.test)
    known = [*batches, *(f"{batch}.bin" for batch in batches), *layout.names[:2]]
    for folder in (path, *(path / name for name in layout.folders)):
        there = {name: folder / name for name in known if (folder / name).is_file()}
        if there.keys() - set(layout.names[:2]):
            return _Files(folder, {n: file.read_bytes for n, file in there.items()})
    archives = sorted(path.glob("cifar-*.tar.gz")) if path.is_dir() else []
    other = next(name for name in LAYOUTS if name != kind)
    others = [path, *(path / name for name in LAYOUTS[other].folders)]
    hint = f"name a folder with {layout.folders[0]}, or the .tar.gz as downloaded"
    if any((folder / LAYOUTS[other].test[0]).is_file() for folder in others):
        hint = f"it looks like {other}: write {other}:{path}"
    elif archives:
        hint = f"write {kind}:{archives[0]}"
    what = "no such file" if not path.exists() else "none of its batches there"
    raise ConfigError(
        f"data.source: expected {kind}'s batches, got {path}: {what}; {hint}"
    )


def _archive(path: Path) -> _Files:
    """Files of an archive by name, read on access."""
    try:
        with tarfile.open(path) as archive:
            members = {
                PurePosixPath(member.name).name: member
                for member in archive
                if member.isreg() and member.size <= _MOST_BYTES
            }
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"data.source: expected CIFAR's .tar.gz or its folder, got {path}: "
            f"{one_line(error)}; download it again"
        ) from None

    def read(member: tarfile.TarInfo) -> bytes:
        with tarfile.open(path) as archive:
            file = archive.extractfile(member)
            assert file is not None  # a regular file
            return file.read()

    return _Files(path, {n: partial(read, member) for n, member in members.items()})


def _content(files: _Files, name: str) -> bytes:
    try:
        return files.read[name]()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"data.source: expected to read {name} in {files.where}, got "
            f"{one_line(error)}; download the set again"
        ) from None


# Batches

Batch = tuple[UInt8[np.ndarray, "n 3072"], Int32[np.ndarray, " n"]]


def _binary_batch(content: bytes, where: str, layout: _Layout) -> Batch:
    record = layout.label_bytes + _PIXELS
    require(
        len(content) > 0 and len(content) % record == 0,
        f"data.source: expected records of {record:,} bytes, got {where} of "
        f"{len(content):,} bytes; download it again, or check that it is of this CIFAR",
    )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = rows[:, layout.label_bytes - 1].astype(np.int32)
    return _checked(rows[:, layout.label_bytes :], labels, where, layout)


def _pickled_batch(content: bytes, where: str, layout: _Layout) -> Batch:
    values = _unpickle(content, where)
    pixels = values.get(b"data")
    labels = values.get(layout.labels)
    array = pixels.bytes_array() if isinstance(pixels, _StandIn) else None
    require(
        array is not None and array.ndim == 2 and array.shape[1] == _PIXELS,
        f"data.source: expected 'data', bytes [N, {_PIXELS}], in {where}, got "
        f"{'no such array' if array is None else array.shape}; download it again",
    )
    assert array is not None
    whole = isinstance(labels, list) and all(type(label) is int for label in labels)
    require(
        whole,
        f"data.source: expected '{layout.labels.decode()}', a list of numbers, in "
        f"{where}, got {_listed(values)}; check that it is of this CIFAR",
    )
    try:
        numbers = np.array(labels, np.int32)
    except OverflowError:
        numbers = np.array([-1], np.int32)
    return _checked(array, numbers, where, layout)


def _checked(
    images: UInt8[np.ndarray, "n 3072"],
    labels: Int32[np.ndarray, " m"],
    where: str,
    layout: _Layout,
) -> Batch:
    require(
        len(images) == len(labels) > 0,
        f"data.source: expected a label for each image of {where}, got "
        f"{len(images):,} images and {len(labels):,} labels; download it again",
    )
    low, high = int(labels.min()), int(labels.max())
    require(
        low >= 0 and high < layout.classes,
        f"data.source: expected classes 0 to {layout.classes - 1} in {where}, got "
        f"{low} to {high}; check that it is of this CIFAR",
    )
    return images, labels


def _class_names(files: _Files, layout: _Layout, *, binary: bool) -> tuple[str, ...]:
    """Class names of the set's own file, or numbers if it is missing or unusable."""
    pickled, text, key = layout.names
    names: Any = None
    if binary and text in files.read:
        names = _content(files, text).split()
    elif not binary and pickled in files.read:
        values = _unpickle(_content(files, pickled), f"{files.where}/{pickled}")
        names = values.get(key)
    if not isinstance(names, list) or len(names) != layout.classes:
        return tuple(map(str, range(layout.classes)))
    return tuple(
        name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        for name in names
    )


# Pickles that cannot run anything


class _StandIn:
    """Replaces numpy's classes in a pickle; it records the arguments of an array."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def bytes_array(self) -> UInt8[np.ndarray, "..."] | None:
        """The array if it has rows of bytes, otherwise None."""
        try:
            _, shape, dtype, by_columns, content = self.state
            if dtype.arguments[0] not in ("u1", b"u1") or by_columns:
                return None
            return np.frombuffer(content, np.uint8).reshape(shape)
        except (AttributeError, IndexError, TypeError, ValueError):
            return None


def _encode(text: Any, encoding: Any) -> bytes:
    """Replaces `_codecs.encode`, which Python 3 pickles bytes with in protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("it encodes something other than bytes")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _StandIn,
    ("numpy", "dtype"): _StandIn,
    ("numpy.core.multiarray", "_reconstruct"): _StandIn,
    ("numpy._core.multiarray", "_reconstruct"): _StandIn,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return _ALLOWED[module, name]


def _unpickle(content: bytes, where: str) -> dict[Any, Any]:
    """A dictionary of plain values, with byte strings for its keys."""
    try:
        values = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    # A damaged or malicious file may raise anything.
    except Exception as error:
        raise ConfigError(
            f"data.source: expected a batch of CIFAR, got {where}: {one_line(error)}; "
            "download it again from its home page"
        ) from None
    require(
        isinstance(values, dict),
        f"data.source: expected a batch of CIFAR, a dictionary, got {where}: a "
        f"{type(values).__name__}; download it again from its home page",
    )
    return {
        key.encode(errors="replace") if isinstance(key, str) else key: value
        for key, value in values.items()
    }


def _listed(values: Mapping[Any, Any]) -> str:
    names = [key.decode(errors="replace") for key in values if isinstance(key, bytes)]
    return ", ".join(sorted(names)[:8]) or "nothing"
