"""Data sets: one protocol for arrays in memory and for records on disk."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int, Int32, Shaped

from caco_jax.data.records import UNREADABLE, ArrayRecords, Records
from caco_jax.schema import ConfigError, require

# Number of records that the digest of a set reads.
_DIGEST_RECORDS = 32
HELD_OUT_SHARE = 0.1


class Dataset(Protocol):
    """A data set: training examples, held-out examples, their names.

    Attributes:
        name: name in messages and in the description of a run.
        class_names: one name for each class; empty without labels.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without labels."""

    @property
    def has_labels(self) -> bool:
        """Whether there are labelled training examples and held-out examples."""

    @property
    def in_memory(self) -> bool:
        """Whether the examples are arrays in memory."""

    @property
    def train_count(self) -> int:
        """Number of training examples."""

    def digest(self) -> str:
        """A digest that identifies the training examples, independent of their path."""


@dataclass(frozen=True)
class ArrayDataset:
    """Examples of one shape with their labels, in memory.

    Attributes:
        name: the source that gave them, as written in a configuration.
        train_examples: [M, ...] of any dtype; images are uint8 [M, H, W, C], 0 to 255.
        train_labels: int32 [M], or None; pretraining needs none.
        test_examples: [T, ...], held out; T may be 0.
        test_labels: int32 [T], or None.
        class_names: one name for each class; empty without labels.
        value_range: pixel values that became 0 and 255, of images of more than 8 bits.
        notes: lines on how the source was interpreted.
    """

    name: str
    train_examples: Shaped[np.ndarray, "m *example"] = field(repr=False)
    train_labels: Int32[np.ndarray, " m"] | None = field(repr=False)
    test_examples: Shaped[np.ndarray, "t *example"] = field(repr=False)
    test_labels: Int32[np.ndarray, " t"] | None = field(repr=False)
    class_names: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        train, test = self.train_examples, self.test_examples
        if (train.shape[1:], train.dtype) != (test.shape[1:], test.dtype):
            raise ValueError(
                f"{self.name}: expected held-out examples like those to train on, "
                f"{train.dtype} {train.shape[1:]}, got {test.dtype} {test.shape[1:]}"
            )
        for split in ("train", "test"):
            examples = getattr(self, f"{split}_examples")
            labels = getattr(self, f"{split}_labels")
            if labels is not None and labels.shape != examples.shape[:1]:
                raise ValueError(
                    f"{self.name}: expected one label for each of {len(examples)} "
                    f"{split} examples, got labels {labels.shape}"
                )

    @property
    def num_classes(self) -> int:
        """See `Dataset`."""
        return len(self.class_names)

    @property
    def has_labels(self) -> bool:
        """See `Dataset`."""
        return self.train_labels is not None and self.test_labels is not None

    @property
    def in_memory(self) -> bool:
        """See `Dataset`."""
        return True

    @property
    def train_count(self) -> int:
        """See `Dataset`."""
        return len(self.train_examples)

    def digest(self) -> str:
        """See `Dataset`; it depends on every byte."""
        examples = self.train_examples
        digest = hashlib.sha256(f"in memory {examples.shape}".encode())
        if examples.dtype != np.uint8:
            digest.update(f"{examples.dtype}".encode())
        digest.update(np.ascontiguousarray(examples).view(np.uint8).data)
        return digest.hexdigest()

    def as_records(self) -> "RecordDataset":
        """The same images as records, to stream them."""
        return RecordDataset(
            name=self.name,
            train=ArrayRecords(
                f"{self.name}/train", self.train_examples, self.train_labels
            ),
            test=ArrayRecords(
                f"{self.name}/test", self.test_examples, self.test_labels
            ),
            class_names=self.class_names,
            value_range=self.value_range,
            notes=self.notes,
        )


@dataclass(frozen=True)
class RecordDataset:
    """Images of any size that are read on access.

    Labels come with the records: reading all labels would mean reading all images.

    Attributes:
        name: the source that gave them, as written in a configuration.
        train: records to pretrain on.
        test: held-out records for evaluation; None if there are none.
        class_names: one name for each class; empty without labels.
        labelled: records that evaluation learns from if `train` has no labels; see
            `evaluation_train`.
        bad_share: largest share of unreadable images in each part; they are skipped.
        workers: worker processes of each host; 0: threads; None: one for each core.
        value_range: pixel values that became 0 and 255, of images of more than 8 bits.
        notes: lines on how the source was interpreted.
    """

    name: str
    train: Records = field(repr=False)
    test: Records | None = field(default=None, repr=False)
    class_names: tuple[str, ...] = field(default=(), repr=False)
    labelled: Records | None = field(default=None, repr=False)
    bad_share: float = field(default=0.001, repr=False)
    workers: int | None = field(default=None, repr=False)
    value_range: tuple[float, float] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    @property
    def num_classes(self) -> int:
        """See `Dataset`."""
        return len(self.class_names)

    @property
    def has_labels(self) -> bool:
        """See `Dataset`."""
        return bool(self.class_names) and self.test is not None

    @property
    def in_memory(self) -> bool:
        """See `Dataset`."""
        return False

    @property
    def train_count(self) -> int:
        """See `Dataset`."""
        return len(self.train)

    @property
    def evaluation_train(self) -> Records:
        """The labelled images that evaluation learns from."""
        return self.train if self.labelled is None else self.labelled

    def digest(self) -> str:
        """See `Dataset`; it depends on the number of records and some of them."""
        count = len(self.train)
        digest = hashlib.sha256(f"streamed {count}".encode())
        rows = np.linspace(0, count - 1, min(count, _DIGEST_RECORDS)).astype(int)
        for index in rows:
            digest.update(_content(self.train, index))
        return digest.hexdigest()


def describe_data(dataset: ArrayDataset | RecordDataset) -> str:
    """A line about a data set: training images, held-out images, classes."""
    if isinstance(dataset, ArrayDataset):
        held_out = len(dataset.test_examples)
    else:
        held_out = 0 if dataset.test is None else len(dataset.test)
    count = dataset.num_classes
    named = f"{count:,} classes: {some_names(dataset.class_names, most=10)}"
    return (
        f"{dataset.name}: {dataset.train_count:,} images to train on, {held_out:,} "
        f"held out, {named if count else 'no classes'}"
    )


def some_names(names: Collection[str], *, most: int = 3) -> str:
    """The first names, and the number of others."""
    first = names if isinstance(names, Sequence) else sorted(names)
    more = len(first) - most
    return ", ".join(first[:most]) + (f" and {more:,} others" if more > 0 else "")


def _content(records: Records, index: int) -> bytes:
    try:
        encoded = records[index].encoded
    except UNREADABLE:
        return b""  # unreadable images are counted in training
    return encoded if isinstance(encoded, bytes) else encoded.tobytes()


def as_dataset(
    data: Any, *, name: str = "arrays", held_out: float = HELD_OUT_SHARE, seed: int = 0
) -> Dataset:
    """Examples in any form as a `Dataset`.

    Args:
        data: a `Dataset`; examples [M, ...], an array or a sequence of arrays of one
            shape; or a pair (examples, labels [M]).
        name: of the set.
        held_out: share of each class that is held out for kNN and evaluation; without
            labels nothing is held out.
        seed: seed that draws the held-out part.

    Raises:
        ConfigError: the arrays do not fit each other.
    """
    if not isinstance(data, tuple | list | np.ndarray) and hasattr(data, "train_count"):
        return data
    examples, labels = (
        data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    )
    try:
        examples = np.asarray(examples)
    except ValueError:
        raise ConfigError(
            "data: expected examples of one shape, got several; pad or crop them"
        ) from None
    require(
        examples.ndim >= 2 and len(examples) > 1 and examples.dtype.kind not in "OSUMm",
        "data: expected numbers, examples [M, ...] of one shape, M at least 2, got "
        f"{examples.dtype} {examples.shape}",
    )
    if labels is None:
        return ArrayDataset(name, examples, None, examples[:0], None)
    labels = np.asarray(labels)
    if labels.shape != examples.shape[:1]:
        raise ConfigError(
            f"data: expected a label for each of {len(examples)} examples, got labels "
            f"{labels.shape}"
        )
    names, numbers = np.unique(labels, return_inverse=True)
    numbers = numbers.astype(np.int32)
    train, test = hold_out(numbers, seed=seed, share=held_out)
    return ArrayDataset(
        name,
        examples[train],
        numbers[train],
        examples[test],
        numbers[test],
        tuple(map(str, names)),
    )


def hold_out(
    labels: Int32[np.ndarray, " m"], *, seed: int, share: float = HELD_OUT_SHARE
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " h"]]:
    """Splits rows into kept and held-out ones: a share of each class of at least two.

    Args:
        labels: [M] classes.
        seed: seed that draws the rows.
        share: in (0, 1); at least one row and never all rows of a class are held out.
    """
    rng = np.random.default_rng(seed)
    held_out = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            count = min(max(1, round(len(rows) * share)), len(rows) - 1)
            held_out.append(rng.permutation(rows)[:count])
    held = np.sort(np.concatenate(held_out)) if held_out else np.zeros(0, np.int64)
    return np.setdiff1d(np.arange(len(labels)), held), held
