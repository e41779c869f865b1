"""Sets of images that stay where they are: a record at a time, by number.

What is read here is bytes; `decode` makes pixels of them. All of it pickles, opens its
files when the first record is asked for, and imports no accelerator library: a worker
process gets a copy and starts in a moment.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int32, UInt8


class Record(NamedTuple):
    """An image as it is stored.

    Attributes:
        encoded: the content of an image file, or pixels, uint8 [H, W, 1 or 3].
        label: its class; -1 without one. Where an image shows several, int32 [C], 1
            for each of them.
        name: a path, or "set/split[index]": how messages call it.
    """

    encoded: bytes | UInt8[np.ndarray, "h w c"]
    label: int | Int32[np.ndarray, " c"]
    name: str


class Records(Protocol):
    """A picklable sequence of records."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, index: int) -> Record:
        """One of them, 0 <= index < len.

        Raises:
            OSError: its file cannot be read; the message names it.
        """


class ArrayRecords:
    """Pixels that are in memory.

    Args:
        name: of the split, such as "fake:8x8x3/train".
        images: uint8 [M, H, W, C].
        labels: int32 [M], or None.
    """

    def __init__(
        self,
        name: str,
        images: UInt8[np.ndarray, "m h w c"],
        labels: Int32[np.ndarray, " m"] | None = None,
    ) -> None:
        self._name, self._images, self._labels = name, images, labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        label = -1 if self._labels is None else int(self._labels[index])
        return Record(self._images[index], label, f"{self._name}[{index}]")


class FolderRecords:
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

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> str:
        """Where a record's file is."""
        return os.path.join(self._root, os.fsdecode(self._paths[index]))

    def __getitem__(self, index: int) -> Record:
        path = self.path(index)
        label = -1 if self._labels is None else int(self._labels[index])
        with open(path, "rb") as file:
            return Record(file.read(), label, path)


class TfdsRecords:
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

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        example = self._open()[int(index)]
        label = -1 if self._label_key is None else int(example[self._label_key])
        encoded = example[self._image_key]
        name = f"{self._directory}/{self._split}[{index}]"
        return Record(encoded, label, name)

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
