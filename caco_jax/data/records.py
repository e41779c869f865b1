"""Sets of images that stay where they are: a record at a time, by number.

What is read here is bytes; `decode` makes pixels of them. All of it pickles, opens its
files when the first record is asked for, and imports no accelerator library: a worker
process gets a copy and starts in a moment.
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

# How long a drive that went away is waited for, and how often it is looked for.
WAIT_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_PROBES = 8  # files that are tried, spread over the set


class BadImageError(ValueError):
    """A record that is no image, or a damaged one; the message begins with its name."""


# What one record may raise that cannot be opened or decoded: it alone is then skipped.
UNREADABLE = (BadImageError, OSError)


class StreamError(UserError):
    """A stream of examples ended before its time; what was trained can be saved."""


class SourceGoneError(StreamError):
    """None of a set's records can be opened any more: no fault of a single one."""


class Record(NamedTuple):
    """An image as it is stored.

    Attributes:
        encoded: the content of an image file, or pixels, uint8 [H, W, 1 or 3].
        label: its class; -1 without one. Where an image shows several, int32 [C], 1
            for each of them.
        name: a path, or "set/split[index]": how messages call it.
        value_range: which values become 0 and 255, of a file of more than 8 bits;
            None: as its type says.
    """

    encoded: bytes | UInt8[np.ndarray, "h w c"]
    label: int | Int32[np.ndarray, " c"]
    name: str
    value_range: tuple[float, float] | None = None


class Records(Protocol):
    """A picklable sequence of records."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, index: int) -> Record:
        """One of them, 0 <= index < len.

        Raises:
            OSError: its file cannot be read; the message names it.
            SourceGoneError: none can, and waiting did not help.
        """


class _Drive:
    """Tells a record that cannot be opened from a drive that went away.

    Args:
        name: of the place, for messages.
        reachable: whether anything there can be read.
    """

    def __init__(self, name: str, reachable: Callable[[], bool]) -> None:
        self._name, self._reachable, self._gone = name, reachable, False

    def wait(self) -> None:
        """Returns once something can be read.

        Raises:
            SourceGoneError: nothing could for `WAIT_SECONDS`, now or before.
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
            f"data.source: nothing in {self._name} can be read any more: is the drive "
            "there"
        )


def _can_read(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError:
        return False
    return True


class ArrayRecords:
    """Pixels that are in memory.

    Args:
        name: of the split, such as "fake:8x8x3/train".
        images: uint8 [M, H, W, C]; examples that are none are handed out alike.
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
    """Records whose images are files' contents.

    Attributes:
        value_range: of all records, see `Record`.
    """

    value_range: tuple[float, float] | None = None


class FolderRecords(EncodedRecords):
    """Image files below a directory.

    Args:
        root: the directory.
        paths: of the files, relative to it.
        labels: int32 [M], or None.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: Int32[np.ndarray, " m"] | None = None,
    ) -> None:
        self._root, self._labels = str(root), labels
        # One array of bytes: a million strings would take long to pickle.
        self._paths = np.array([os.fsencode(path) for path in paths], np.bytes_)
        self._drive = _Drive(self._root, self.reachable)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> str:
        """Where a record's file is."""
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
        """Whether any of some files can be read; of one alone nothing is known."""
        if len(self) < 2:
            return True
        rows = np.linspace(0, len(self) - 1, min(len(self), _PROBES)).astype(int)
        return any(_can_read(self.path(row)) for row in rows)


def _read(path: str, offset: int = 0, size: int = -1) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


class Place(NamedTuple):
    """Where an image lies in a set of shards.

    Attributes:
        shard: the number of its shard.
        offset: its first byte there.
        size: bytes.
        name: in the shard.
    """

    shard: int
    offset: int
    size: int
    name: str


class ShardRecords(EncodedRecords):
    """Image files within larger files, such as tar archives.

    Args:
        shards: the larger files.
        places: of the images in them.
        labels: int32 [M], or None.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        places: Sequence[Place],
        labels: Int32[np.ndarray, " m"] | None = None,
    ) -> None:
        self._shards, self._labels = [str(shard) for shard in shards], labels
        # Arrays, as of `FolderRecords`.
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
        directory: of one version of one config of the set, with its
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
        except Exception:  # the readers raise whatever they stumble on
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
