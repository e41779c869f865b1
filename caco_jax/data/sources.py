"""Loads data sets by the name of their source.

A small set becomes NumPy arrays of bytes; a large one is read from disk by record.
Nothing here uses an accelerator: the training loop places the images.
"""

import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from caco_jax._paths import local_path
from caco_jax.data.cifar import open_cifar
from caco_jax.data.dataset import ArrayDataset, RecordDataset, describe_data
from caco_jax.data.decode import decode_image, image_size
from caco_jax.data.deep import Range
from caco_jax.data.folders import open_folder
from caco_jax.data.idx import open_idx
from caco_jax.data.records import (
    UNREADABLE,
    BadImageError,
    EncodedRecords,
    Records,
)
from caco_jax.data.resize import opencv
from caco_jax.data.shards import open_shards
from caco_jax.data.tfds_sets import open_tfds
from caco_jax.data.value_range import find_range
from caco_jax.schema import ConfigError, did_you_mean

logger = logging.getLogger("caco_jax")
# Larger images are cheaper to decode at a small size on the host than to keep whole.
RESIDENT_SIDE_PIXELS = 256
RESIDENT_BYTES = 2 * 2**30


def load_digits_set(*, seed: int = 0, size_pixels: int = 16) -> ArrayDataset:
    """Scikit-learn's 1,797 handwritten digits, which need no download.

    A stratified quarter is held out. Grey levels 0 to 16 become 0 to 255, and the 8×8
    images are enlarged bilinearly: at 8×8 a shift by one pixel is too strong an
    augmentation, and the feature maps of a stride-2 network vanish.

    Args:
        seed: seed that draws the held-out quarter.
        size_pixels: height and width of the images returned.

    References:
        Alpaydin & Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", the
        test part, as scikit-learn packs it.
    """
    from PIL import Image
    from sklearn import datasets, model_selection

    digits = datasets.load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
    size = (size_pixels, size_pixels)
    enlarged = np.stack(
        [
            np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR))
            for one in grey
        ]
    )[..., None]  # [1797, size, size, 1]
    labels = digits.target.astype(np.int32)
    train, test = model_selection.train_test_split(
        np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=seed
    )
    return ArrayDataset(
        name="digits",
        train_examples=enlarged[train],
        train_labels=labels[train],
        test_examples=enlarged[test],
        test_labels=labels[test],
        class_names=tuple("0123456789"),
    )


FAKE_COUNT = 512
FAKE_CLASSES = 10


def make_fake_set(shape: str, *, seed: int = 0) -> ArrayDataset:
    """Random bytes with random labels, for benchmarks and smoke runs.

    Args:
        shape: "HxWxC" or "HxWxCxCOUNT"; the default count is 512. The test split has a
            quarter of the count, at least one image.
        seed: seed of the bytes and labels.

    Raises:
        ValueError: the shape is not such a string, or has a 0 in it.
    """
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2,3}", shape):
        raise ValueError(
            "data.source: after fake: expected a shape HxWxC or HxWxCxCOUNT of numbers "
            f">= 1, such as 32x32x3x1024, got {shape!r}"
        )
    height, width, channels, count = [*map(int, shape.split("x")), FAKE_COUNT][:4]
    random = np.random.default_rng(seed)

    def split(rows: int) -> tuple[np.ndarray, np.ndarray]:
        images = random.integers(
            0, 256, size=(rows, height, width, channels), dtype=np.uint8
        )
        return images, random.integers(0, FAKE_CLASSES, size=rows, dtype=np.int32)

    train_examples, train_labels = split(count)
    test_examples, test_labels = split(max(1, count // 4))
    return ArrayDataset(
        name=f"fake:{shape}",
        train_examples=train_examples,
        train_labels=train_labels,
        test_examples=test_examples,
        test_labels=test_labels,
        class_names=tuple(f"class {c}" for c in range(FAKE_CLASSES)),
    )


@dataclass(frozen=True)
class _Request:
    """The settings of a data set beside the name of its source."""

    data_dir: Path | None
    seed: int
    train_split: str | None
    test_split: str | None
    max_resident_bytes: int
    value_range: Range | str | None

    def path(self, kind: str, rest: str) -> Path:
        """Path of a source, relative to the data directory.

        Raises:
            ValueError: no path is given, or one of another machine.
        """
        if not rest:
            raise ValueError(
                f"data.source: after {kind}: expected a directory, got nothing"
            )
        base = Path() if self.data_dir is None else self.data_dir
        path = base / _local(rest, "data.source")
        try:
            path.exists()
        except OSError as error:  # a name too long
            raise ConfigError(
                f"data.source: expected a path that can be read, got {rest}: "
                f"{error.strerror}; check the path and its permissions"
            ) from None
        return path

    def refuse_splits(self, source: str) -> None:
        """Raises ValueError if a split is named for a source with fixed splits."""
        for key in ("train_split", "test_split"):
            if getattr(self, key) is not None:
                raise ValueError(
                    f"data.{key}: expected None for {source}, got "
                    f"{getattr(self, key)!r}"
                )


def _digits(rest: str, request: _Request) -> ArrayDataset:
    request.refuse_splits("digits")
    if rest:
        raise ValueError(
            f"data.source: digits takes nothing after its name, got {rest!r}"
        )
    return load_digits_set(seed=request.seed)


def _fake(rest: str, request: _Request) -> ArrayDataset:
    request.refuse_splits("fake")
    return make_fake_set(rest, seed=request.seed)


def _idx(rest: str, request: _Request) -> ArrayDataset:
    request.refuse_splits("idx")
    return open_idx(request.path("idx", rest), name=f"idx:{rest}")


def _cifar(kind: str, rest: str, request: _Request) -> ArrayDataset:
    request.refuse_splits(kind)
    return open_cifar(kind, request.path(kind, rest), name=f"{kind}:{rest}")


def _tfds(rest: str, request: _Request) -> ArrayDataset | RecordDataset:
    opencv()  # missed now and not by a worker
    splits = open_tfds(
        rest,
        request.data_dir,
        train_split=request.train_split,
        test_split=request.test_split,
    )
    records = RecordDataset(
        name=f"tfds:{rest}",
        train=splits.train,
        test=splits.test,
        class_names=splits.class_names,
        labelled=splits.labelled,
    )
    if request.value_range is not None:  # few of their images have more than 8 bits
        records = _with_range(records, request)
    if splits.shape is None:
        return records
    return _in_memory(records, splits.shape[:2], request.max_resident_bytes)


def _folder(rest: str, request: _Request) -> ArrayDataset | RecordDataset:
    return _files(open_folder, "folder", rest, request)


def _wds(rest: str, request: _Request) -> ArrayDataset | RecordDataset:
    return _files(open_shards, "wds", rest, request)


def _files(
    open_files: Callable[..., Any], kind: str, rest: str, request: _Request
) -> ArrayDataset | RecordDataset:
    """A set of image files with known labels and splits."""
    path = request.path(kind, rest)
    opencv()  # missed now and not by a worker
    splits = open_files(
        path,
        seed=request.seed,
        train_split=request.train_split,
        test_split=request.test_split,
    )
    if not splits.train.reachable():
        raise ValueError(
            f"data.source: expected images that can be read in {path}, got "
            f"{len(splits.train)} of which none of those tried can; check the drive"
        )
    records = RecordDataset(
        name=f"{kind}:{rest}",
        train=splits.train,
        test=splits.test,
        class_names=splits.class_names,
        notes=splits.notes,
    )
    records = _with_range(records, request)
    try:
        size = image_size(splits.train[0])
    except UNREADABLE:
        return records  # unreadable images are counted in training
    return _in_memory(records, size, request.max_resident_bytes)


def _with_range(records: RecordDataset, request: _Request) -> RecordDataset:
    """Adds the value range of images of more than 8 bits to a set."""
    found = find_range(records.name, records.train, request.value_range)
    for part in (records.train, records.test, records.labelled):
        if isinstance(part, EncodedRecords):
            part.value_range = found.value_range
    notes = (*records.notes, *found.notes)
    return replace(records, value_range=found.value_range, notes=notes)


def _in_memory(
    records: RecordDataset, size: tuple[int, int], max_resident_bytes: int
) -> ArrayDataset | RecordDataset:
    """The set as arrays if its images have this size and fit in memory, or as it is."""
    test = () if records.test is None else records.test
    count = len(records.train) + len(test)
    if (
        records.labelled is not None
        or max(size) > RESIDENT_SIDE_PIXELS
        or count * size[0] * size[1] * 3 > max_resident_bytes
    ):
        return records
    try:
        train_examples, train_labels = _decode_all(records.train, size)
        test_examples, test_labels = _decode_all(test, size)
    except UNREADABLE as error:
        logger.info("%s is not kept in memory: %s", records.name, error)
        return records
    labelled = records.has_labels
    if labelled:
        _check_labels(records, train_labels, test_labels)
    return ArrayDataset(
        name=records.name,
        train_examples=train_examples,
        train_labels=train_labels if labelled else None,
        test_examples=test_examples,
        test_labels=test_labels if labelled else None,
        class_names=records.class_names,
        value_range=records.value_range,
        notes=records.notes,
    )


def _decode_all(
    records: Records | tuple[()], size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "m h w 3"], Int32[np.ndarray, " m"]]:
    """All images and labels; BadImageError at the first of another size."""
    images = np.empty((len(records), *size, 3), np.uint8)
    labels = np.empty(len(records), np.int32)

    def decode(index: int) -> None:
        record = records[index]
        image = decode_image(record)
        if image.shape[:2] != size:
            raise BadImageError(
                f"{record.name}: {image.shape[1]}x{image.shape[0]} pixels, others have "
                f"{size[1]}x{size[0]}"
            )
        images[index], labels[index] = image, record.label

    with ThreadPoolExecutor() as threads:
        # By parts, so that an image of another size is found before all are decoded.
        for first in range(0, len(records), 256):
            list(threads.map(decode, range(first, min(first + 256, len(records)))))
    return images, labels


def _check_labels(
    records: RecordDataset,
    train: Int32[np.ndarray, " m"],
    test: Int32[np.ndarray, " t"],
) -> None:
    unknown = [records.class_names[label] for label in np.setdiff1d(test, train)]
    if unknown:
        raise ValueError(
            f"data.source: expected every class of the test split of {records.name} in "
            f"the training split too, got {', '.join(unknown[:3])} in the test split "
            "only"
        )


SOURCES: dict[str, Callable[[str, _Request], ArrayDataset | RecordDataset]] = {
    "cifar10": partial(_cifar, "cifar10"),
    "cifar100": partial(_cifar, "cifar100"),
    "digits": _digits,
    "fake": _fake,
    "folder": _folder,
    "idx": _idx,
    "tfds": _tfds,
    "wds": _wds,
}


def _local(path: str | Path, key: str) -> Path:
    try:
        return local_path(path)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def load(
    source: str,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    train_split: str | None = None,
    test_split: str | None = None,
    max_resident_bytes: int = RESIDENT_BYTES,
    value_range: Range | str | None = None,
) -> ArrayDataset | RecordDataset:
    """Loads or opens the data set of a configuration.

    Args:
        source: "digits" (embedded), "fake:HxWxC[xCOUNT]" (random bytes),
            `tfds:NAME[/CONFIG][:VERSION]` (prepared by `caco prepare`),
            "folder:PATH" (see `folders.open_folder`), "wds:PATH" (tar files, see
            `shards.open_shards`), "idx:PATH" (MNIST's files, see
            `idx.open_idx`), "cifar10:PATH" or "cifar100:PATH" (CIFAR's own files, see
            `cifar.open_cifar`).
        data_dir: directory of prepared sets and of relative paths; digits and fake sets
            need none.
        seed: seed of the source: of the held-out part, or of fake images.
        train_split: a split in TFDS's notation, or a sub-folder; None: inferred. The
            default of "tfds:stl10" is its unlabelled images, and evaluation learns from
            the labelled ones.
        test_split: the held-out split or sub-folder; None: inferred.
        max_resident_bytes: TFDS sets and folders of images of one size, at most
            `RESIDENT_SIDE_PIXELS` a side, become an `ArrayDataset` if they fit in this.
        value_range: for images of more than 8 bits the values that become 0 and 255;
            "auto": estimated from a sample; None: by their dtype.

    Raises:
        ValueError: one line that starts with the configuration key.
    """
    kind, _, rest = source.partition(":")
    if kind not in SOURCES:
        is_path = "/" in source or os.path.isdir(source)
        hint = f"; a folder of images is folder:{source}" if is_path else ""
        raise ValueError(
            f"data.source: expected one of {', '.join(sorted(SOURCES))}, got {source!r}"
            f"{hint or did_you_mean(kind, SOURCES)}"
        )
    directory = None if data_dir is None else _local(data_dir, "data.data_dir")
    request = _Request(
        directory, seed, train_split, test_split, max_resident_bytes, value_range
    )
    dataset = SOURCES[kind](rest, request)
    return replace(dataset, notes=(describe_data(dataset), *dataset.notes))
