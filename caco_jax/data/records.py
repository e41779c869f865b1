"""Records: image files on disk, in tar shards or in TFDS sets, read by number.

This module reads bytes; `decode` decodes them to pixels. Its classes can be pickled,
open their files at the first access, and import no accelerator library, so that a
worker process gets a copy and starts fast.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int32, Shaped, UInt8

from caco_jax.schema import UserError

logger = logging.getLogger("caco_jax")

# Time to wait for an unreachable drive, and interval of retries.
WAIT_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_PROBES = 8  # number of files that are tried, taken evenly from the set


class BadImageError(ValueError):
    """A record is no image or damaged; the message starts with its name."""


# Errors of a single unreadable record, which is then skipped.
UNREADABLE = (BadImageError, OSError)


class StreamError(UserError):
    """A stream of examples ended too early; the trained state can be saved."""


class SourceGoneError(StreamError):
    """No record of a set can be opened any more, for example on an unmounted drive."""


class Record(NamedTuple):
    """A stored image.

    Attributes:
        encoded: the content of an image file, or pixels, uint8 [H, W, 1 or 3].
        label: its class; -1 without one. For an image of several classes int32 [C], 1
            for each of them.
        name: a path, or "set/split[index]", for messages.
        value_range: pixel values that become 0 and 255, for a file of more than 8 bits;
            None: by its dtype.
    """

    encoded: bytes | UInt8[np.ndarray, "h w c"]
    label: int | Int32[np.ndarray, " c"]
    name: str
    value_range: tuple[float, float] | None = None


class Records(Protocol):
    """A picklable sequence of records."""

    def __len__(self) -> int:
        """Number of records."""

    def __getitem__(self, index: int) -> Record:
        """A record, 0 <= index < len.

        Raises:
            OSError: the file cannot be read; the message names it.
            SourceGoneError: no record can be read, also after waiting.
        """


class _Drive:
    """Distinguishes an unreadable record from an unreachable drive.

    Args:
        name: name of the place, for messages.
        reachable: returns whether any record can be read.
    """

    def __init__(self, name: str, reachable: Callable[[], bool]) -> None:
        self._name, self._reachable, self._gone = name, reachable, False

    def wait(self) -> None:
        """Waits until some record can be read.

        Raises:
            SourceGoneError: none could be read for `WAIT_SECONDS`, now or before.
        """
        if self._reachable():
            return
        if not self._gone:
            logger.warning(
                "nothing in %s can be read: waiting %g s for it",
                self._name,
                WAIT_SECONDS,
            )
        end = time.monotonic() + WAIT_SECONDS
        while not self._gone and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
            if self._reachable():
                return
        self._gone = True
        raise SourceGoneError(
            f"data.source: nothing in {self._name} can be read any more; check that "
            "the drive is mounted"
        )


def _can_read(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError:
        return False
    return True


class ArrayRecords:
    """Images in memory as records.

    Args:
        name: name of the split, such as "fake:8x8x3/train".
        images: uint8 [M, H, W, C]; other examples are returned in the same way.
        labels: int32 [M], or None.
    """

    def __init__(
        self,
        name: str,
        images: Shaped[np.ndarray, "m *example"],
        labels: Int32[np.ndarray, " m"] | None = None,
    ) -> None:
        self._name, self._images, self._labels = name, images, labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        label = -1 if self._labels is None else int(self._labels[index])
        return Record(self._images[index], label, f"{self._name}[{index}]")


class EncodedRecords:
    """Records whose images are encoded files.

    Attributes:
        value_range: of all records, see `Record`.
    """

    value_range: tuple[float, float] | None = None


class FolderRecords(EncodedRecords):
    """Image files below a directory.

    Args:
        root: the directory.
        paths: paths of the files, relative to it.
        labels: int32 [M], or None.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: Int32[np.ndarray, " m"] | None = None,
    ) -> None:
        self._root, self._labels = str(root), labels
        # One array of bytes, because pickling a million strings is slow.
        self._paths = np.array([os.fsencode(path) for path in paths], np.bytes_)
        self._drive = _Drive(self._root, self.reachable)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> str:
        """Path of a record's file."""
        return os.path.join(self._root, os.fsdecode(self._paths[index]))

    def __getitem__(self, index: int) -> Record:
        path = self.path(index)
        label = -1 if self._labels is None else int(self._labels[index])
        try:
            encoded = _read(path)
        except OSError:
            self._drive.wait()
            encoded = _read(path)
        return Record(encoded, label, path, self.value_range)

    def reachable(self) -> bool:
        """Whether any of some files can be read; True for a set of a single file."""
        if len(self) < 2:
            return True
        rows = np.linspace(0, len(self) - 1, min(len(self), _PROBES)).astype(int)
        return any(_can_read(self.path(row)) for row in rows)


def _read(path: str, offset: int = 0, size: int = -1) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


class Place(NamedTuple):
    """Position of an image in a set of shards.

    Attributes:
        shard: number of its shard.
        offset: offset of its first byte.
        size: number of bytes.
        name: name in the shard.
    """

    shard: int
    offset: int
    size: int
    name: str


class ShardRecords(EncodedRecords):
    """Image files in shards, such as tar archives.

    Args:
        shards: the files.
        places: positions of the images in them.
        labels: int32 [M], or None.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        places: Sequence[Place],
        labels: Int32[np.ndarray, " m"] | None = None,
    ) -> None:
        self._shards, self._labels = [str(shard) for shard in shards], labels
        # Arrays, as in `FolderRecords`.
        numbers = [(shard, offset, size) for shard, offset, size, _ in places]
        self._places = np.array(numbers, np.int64).reshape(-1, 3)
        names = [os.fsencode(place.name) for place in places]
        self._names = np.array(names, np.bytes_)
        self._drive = _Drive(os.path.dirname(self._shards[0]) or ".", self.reachable)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:
        shard, offset, size = self._places[index].tolist()
        path = self._shards[shard]
        name = os.path.join(path, os.fsdecode(self._names[index]))
        label = -1 if self._labels is None else int(self._labels[index])
        try:
            encoded = _read(path, offset, size)
        except OSError:
            self._drive.wait()
            encoded = _read(path, offset, size)
        if len(encoded) < size:
            raise BadImageError(f"{name}: the shard ends within it")
        return Record(encoded, label, name, self.value_range)

    def reachable(self) -> bool:
        """Whether any of some shards can be read."""
        rows = np.linspace(0, len(self._shards) - 1, min(len(self._shards), _PROBES))
        return any(_can_read(self._shards[row]) for row in rows.astype(int))


class TfdsRecords(EncodedRecords):
    """A split of a prepared TFDS set, as ArrayRecord; TensorFlow is not used.

    Args:
        directory: directory of one version of one config of the set, with its
            dataset_info.json.
        split: as TFDS writes it, such as "train" or "train[:90%]".
        image_key: the feature that is the image.
        label_key: the feature that is the class, or None.
        count: records in the split.
    """

    def __init__(
        self,
        directory: Path,
        split: str,
        *,
        count: int,
        image_key: str = "image",
        label_key: str | None = "label",
    ) -> None:
        self._directory, self._split, self._count = str(directory), split, count
        self._image_key, self._label_key = image_key, label_key
        self._source: Any = None
        self._lock = threading.Lock()
        self._drive = _Drive(self._directory, self._reachable)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        name = f"{self._directory}/{self._split}[{index}]"
        example = self._example(int(index), name)
        label = -1 if self._label_key is None else int(example[self._label_key])
        return Record(example[self._image_key], label, name, self.value_range)

    def _example(self, index: int, name: str) -> Any:
        try:
            return self._open()[index]
        except Exception:  # the readers may raise anything
            self._drive.wait()
            self._source = None
        try:
            return self._open()[index]
        except Exception as error:
            problem = " ".join(str(error).split())
            raise OSError(f"{name}: cannot be read: {problem}") from None

    def _reachable(self) -> bool:
        return _can_read(os.path.join(self._directory, "dataset_info.json"))

    def value(self, index: int, key: str) -> Any:
        """Another feature of a record."""
        return self._open()[int(index)][key]

    def features(self) -> Mapping[str, Any]:
        """TFDS's descriptions of all features, by name."""
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self._directory).info.features

    def _open(self) -> Any:
        with self._lock:
            if self._source is None:
                import tensorflow_datasets as tfds

                builder = tfds.builder_from_directory(self._directory)
                decoders = {self._image_key: tfds.decode.SkipDecoding()}
                self._source = builder.as_data_source(self._split, decoders=decoders)
            return self._source

    def __getstate__(self) -> dict[str, Any]:
        closed = dict.fromkeys(("_source", "_lock"))
        return self.__dict__ | closed

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_lock": threading.Lock()})
