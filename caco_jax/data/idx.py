"""Reader of IDX, the file format of MNIST, gzipped or not.

MNIST, Fashion-MNIST, KMNIST and EMNIST consist of four such files: images and labels of
the training split and of the test split.

References:
    LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; Cohen et al.
    2017, EMNIST, arXiv:1702.05373.
"""

import gzip
import re
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8

from caco_jax.data.dataset import ArrayDataset
from caco_jax.schema import ConfigError, require

_TYPES = {
    0x08: "unsigned bytes",
    0x09: "signed bytes",
    0x0B: "int16",
    0x0C: "int32",
    0x0D: "float32",
    0x0E: "float64",
}
_AXES = {"images": "three axes, images", "labels": "one axis, labels"}
_USUAL = (
    "name the folder that has train-images-idx3-ubyte, train-labels-idx1-ubyte, "
    "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, gzipped or not"
)
_NAME = re.compile(
    r"(?P<set>.*?)-?(?P<split>train|t10k|test)-(?P<kind>images|labels)"
    r"[-.]idx\d-ubyte(\.gz)?",
    re.IGNORECASE,
)
_CHUNK_BYTES = 2**20


class _Files(NamedTuple):
    """The four files of a set by (split, kind), with split "train" or "test"."""

    paths: dict[tuple[str, str], Path]
    set_name: str


def open_idx(path: Path, *, name: str) -> ArrayDataset:
    """Reads a set of IDX files.

    Files are identified by their usual names: ``train`` for the training split,
    ``t10k`` or ``test`` for the test split, "images" and "labels", after any prefix, as
    in ``emnist-letters-train-images-idx3-ubyte.gz``. EMNIST stores its images with rows
    and columns exchanged; they are transposed here.

    Args:
        path: the folder. For a folder with several sets, its path and the name of a
            set, such as ``emnist/emnist-letters``.
        name: name of the set in messages and in the description of a run.

    Returns:
        Images uint8 [M, H, W, 1]; classes in the order of their numbers.

    Raises:
        ConfigError: a file is missing, is not IDX, is cut short or too long, holds
            another type or another number of axes; images and labels are exchanged or
            differ in number; the splits differ in size or class.
    """
    files = _find(path)
    images, numbers = {}, {}
    for split in ("train", "test"):
        images[split] = read_idx(files.paths[split, "images"], "images")
        numbers[split] = read_idx(files.paths[split, "labels"], "labels")
        counts = len(images[split]), len(numbers[split])
        require(
            counts[0] == counts[1] > 0,
            f"data.source: expected a label for each image, got {counts[0]:,} images "
            f"in {files.paths[split, 'images']} and {counts[1]:,} labels in "
            f"{files.paths[split, 'labels'].name}; take both files from one set",
        )
    sizes = [images[split].shape[1:] for split in ("train", "test")]
    require(
        sizes[0] == sizes[1],
        f"data.source: expected test images like those to train on, {_size(sizes[0])}, "
        f"got {_size(sizes[1])} in {files.paths['test', 'images']}; take both from one "
        "set",
    )
    classes = np.unique(numbers["train"])
    unknown = np.setdiff1d(numbers["test"], classes)
    require(
        not len(unknown),
        f"data.source: expected the classes of {files.paths['train', 'labels'].name}, "
        f"got {', '.join(map(str, unknown[:3]))} in {files.paths['test', 'labels']} "
        "only; take both files from one set",
    )
    if "emnist" in files.set_name.lower():
        images = {split: part.swapaxes(1, 2) for split, part in images.items()}
    parts = {split: part[..., None].copy() for split, part in images.items()}
    labels = {
        split: np.searchsorted(classes, part).astype(np.int32)
        for split, part in numbers.items()
    }
    return ArrayDataset(
        name=name,
        train_examples=parts["train"],
        train_labels=labels["train"],
        test_examples=parts["test"],
        test_labels=labels["test"],
        class_names=tuple(map(str, classes)),
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]} pixels"


def _find(path: Path) -> _Files:
    """The files of the only set in a folder, or of the named set."""
    folder, wanted = (path, None) if path.is_dir() else (path.parent, path.name)
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        problem = error.strerror or type(error).__name__
        raise ConfigError(
            f"data.source: expected a folder of IDX files, got {path}: {problem}; "
            f"{_USUAL}"
        ) from None
    sets: dict[str, dict[tuple[str, str], Path]] = {}
    for file, match in ((file, _NAME.fullmatch(file)) for file in names):
        if match:
            split = "train" if match["split"].lower() == "train" else "test"
            part = (split, match["kind"].lower())
            # Sorted: an unzipped file comes before the same file zipped.
            sets.setdefault(match["set"], {}).setdefault(part, folder / file)
    if wanted is not None:
        sets = {wanted: sets[wanted]} if wanted in sets else {}
    require(
        bool(sets),
        f"data.source: expected a folder of IDX files, got {path}, where there are "
        f"none; {_USUAL}",
    )
    require(
        len(sets) == 1,
        f"data.source: expected one set, got {', '.join(sorted(sets))} in {folder}; "
        f"write the name behind the folder, as in idx:{folder / min(sets)}",
    )
    ((set_name, paths),) = sets.items()
    lead = f"{set_name}-" if set_name else ""
    for split, usual in (("train", "train"), ("test", "t10k")):
        for kind, axes in (("images", 3), ("labels", 1)):
            file = f"{lead}{usual}-{kind}-idx{axes}-ubyte"
            require(
                (split, kind) in paths,
                f"data.source: expected {file} or {file}.gz in {folder}, got no "
                f"{split} {kind}; put the file there",
            )
    return _Files(paths, set_name or folder.resolve().name)


def read_idx(
    path: Path, kind: str
) -> UInt8[np.ndarray, "m h w"] | UInt8[np.ndarray, " m"]:
    """Reads an IDX file of bytes.

    Args:
        path: path of the file.
        kind: "images", which have three axes, or "labels", which have one.

    Raises:
        ConfigError: the file cannot be read, or has other content.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not zipped:
                return _parse(raw, path, kind)
            with gzip.GzipFile(fileobj=raw) as unzipped:
                return _parse(unzipped, path, kind)  # type: ignore[arg-type]
    except EOFError:
        raise _cut_short(path, "the end of its gzip stream") from None
    except (OSError, zlib.error) as error:
        problem = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"data.source: expected IDX {kind}, got {path}: {problem}; download the "
            "file again"
        ) from None


def _parse(file: BinaryIO, path: Path, kind: str) -> UInt8[np.ndarray, "m *axes"]:
    magic = file.read(4)
    require(
        len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in _TYPES,
        f"data.source: expected an IDX file, which begins with 00 00 08, got {path}, "
        f"which begins with {magic[:3].hex(' ') or 'nothing'}; download it again",
    )
    require(
        magic[2] == 0x08,
        f"data.source: expected unsigned bytes (type 08), got {path} of "
        f"{_TYPES[magic[2]]} (type {magic[2]:02x}); store pixels and labels as bytes",
    )
    axes = 3 if kind == "images" else 1
    if magic[3] != axes:
        other = "labels" if kind == "images" else "images"
        swapped = magic[3] == 4 - axes
        raise ConfigError(
            f"data.source: expected {_AXES[kind]}, got {path} with {magic[3]} axes; "
            + (
                f"it holds {other}: exchange the two files' names"
                if swapped
                else "take the file of grey images and the one of single labels"
            )
        )
    header = file.read(4 * axes)
    if len(header) < 4 * axes:
        raise _cut_short(path, "its header")
    shape = [int(size) for size in np.frombuffer(header, ">u4")]
    require(
        0 not in shape,
        f"data.source: expected {kind}, got {path}, whose header says "
        f"{'x'.join(map(str, shape))}; download it again",
    )
    promised = int(np.prod(shape, dtype=object))
    content = _read(file, promised + 1)
    if len(content) < promised:
        raise _cut_short(path, f"{len(content):,} of {promised:,} bytes")
    require(
        len(content) == promised,
        f"data.source: expected {promised:,} bytes as the header of {path} says, got "
        "more; download it again",
    )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read(file: BinaryIO, most: int) -> bytes:
    """Reads at most so many bytes: a header may claim more than the memory holds."""
    parts, missing = [], most
    while missing > 0 and (part := file.read(min(missing, _CHUNK_BYTES))):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _cut_short(path: Path, where: str) -> ConfigError:
    return ConfigError(
        f"data.source: expected a whole file, got {path}, which ends within {where}; "
        "download it again"
    )
