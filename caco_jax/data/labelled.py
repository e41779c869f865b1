"""Labelled images for classifiers: rows of a data set, shuffled, cropped, batched.

A part of a set may be in memory or on disk, with the same interface. The batch of a
step follows from the seed, the epoch and the step alone.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from caco_jax.data import pipeline
from caco_jax.data.dataset import ArrayDataset, Dataset, RecordDataset
from caco_jax.data.decode import CropSpec, center_crop
from caco_jax.data.records import Record, Records
from caco_jax.data.view_kinds import PhotoView, View, Views
from caco_jax.data.workers import fitting_workers, stream, worker_count
from caco_jax.schema import UserError

# Range of a crop's share of the image's area, as in torchvision and the protocols.
CROP_SCALE = (0.08, 1.0)
_CENTER_ROWS = 128

# Inputs of views: images, or a crop for each view.
Pixels = UInt8[np.ndarray, "n h w c"] | tuple[UInt8[np.ndarray, "n h w c"], ...]
Labels = Int[np.ndarray, " n"]


class Part(Protocol):
    """A labelled part of a set."""

    @property
    def labels(self) -> Labels | None:
        """All labels; None if images would have to be read for them."""

    def __len__(self) -> int:
        """Number of images."""

    def batches(
        self,
        rows: Int[np.ndarray, " m"],
        *,
        seed: int,
        batch_size: int,
        epochs: int,
    ) -> AbstractContextManager[Iterator[tuple[Pixels, Labels]]]:
        """Batches of some rows in random order; the incomplete last one is dropped.

        Args:
            rows: numbers of the rows to train on.
            seed: seed of the order and of the crops that the host makes.
            batch_size: at most as many as there are rows.
            epochs: number of epochs.
        """

    def centers(
        self, rows: Int[np.ndarray, " m"]
    ) -> Iterator[tuple[UInt8[np.ndarray, "n h w c"], Labels]]:
        """Central crops of some rows for evaluation, in order, in pieces."""


@dataclasses.dataclass(frozen=True)
class ArrayPart:
    """Examples in memory; crops are made on the device; missing labels are -1."""

    images: Shaped[np.ndarray, "m *example"] = dataclasses.field(repr=False)
    labels: Labels | None = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.images)

    @contextlib.contextmanager
    def batches(
        self,
        rows: Int[np.ndarray, " m"],
        *,
        seed: int,
        batch_size: int,
        epochs: int,
    ) -> Iterator[Iterator[tuple[Pixels, Labels]]]:
        """See `Part`."""

        def pieces() -> Iterator[tuple[Pixels, Labels]]:
            for epoch in range(epochs):
                order = rows[pipeline.epoch_order((seed,), epoch, len(rows))]
                for step in range(len(rows) // batch_size):
                    chosen = order[step * batch_size : (step + 1) * batch_size]
                    yield self.images[chosen], self._labels_of(chosen)

        yield pieces()

    def centers(
        self, rows: Int[np.ndarray, " m"]
    ) -> Iterator[tuple[UInt8[np.ndarray, "n h w c"], Labels]]:
        """See `Part`."""
        yield self.images[rows], self._labels_of(rows)

    def _labels_of(self, rows: Int[np.ndarray, " m"]) -> Labels:
        return np.full(len(rows), -1) if self.labels is None else self.labels[rows]


@dataclasses.dataclass(frozen=True)
class RecordPart:
    """Images that the host reads and crops on access.

    Attributes:
        records: the images.
        size_pixels: height and width of the network's input.
        bad: counter of unreadable images.
        workers: worker processes; 0: threads; None: one for each core.
        fit: function from a record to an example of evaluation; None: central crop.
    """

    records: Records = dataclasses.field(repr=False)
    size_pixels: int
    bad: pipeline.BadImages
    workers: int | None = None
    fit: Callable[[Record], UInt8[np.ndarray, "h w c"]] | None = None

    @property
    def labels(self) -> Labels | None:
        """See `Part`."""
        return None

    def __len__(self) -> int:
        return len(self.records)

    @contextlib.contextmanager
    def batches(
        self,
        rows: Int[np.ndarray, " m"],
        *,
        seed: int,
        batch_size: int,
        epochs: int,
    ) -> Iterator[Iterator[tuple[Pixels, Labels]]]:
        """See `Part`."""
        spec = CropSpec(self.size_pixels, CROP_SCALE, PhotoView().crop_aspect)
        source = LabelledCrops(
            self.records,
            [spec],
            seed=(seed,),
            batch_size=batch_size,
            steps=len(rows) // batch_size,
            chosen=rows,
            epochs=epochs,
        )
        count = fitting_workers(
            worker_count(self.workers),
            source.part_bytes,
            held=source.parts_per_step,
        )
        with stream(source, workers=count) as parts:

            def steps() -> Iterator[tuple[Pixels, Labels]]:
                for _ in range(len(source) // source.parts_per_step):
                    step = [next(parts) for _ in range(source.parts_per_step)]
                    for part in step:
                        self.bad.add(part.bad)
                        if not part.views:
                            self.bad.stop()
                    images = np.concatenate([part.views[0] for part in step])
                    yield (images,), np.concatenate([part.labels for part in step])

            yield steps()

    def centers(
        self, rows: Int[np.ndarray, " m"]
    ) -> Iterator[tuple[UInt8[np.ndarray, "n h w c"], Labels]]:
        """See `Part`."""
        middle = functools.partial(center_crop, size_pixels=self.size_pixels)
        source = pipeline.CenterSource(
            self.records, rows, fit=self.fit or middle, part_rows=_CENTER_ROWS
        )
        read = 0
        with stream(source) as parts:
            for part in parts:
                self.bad.add(part.bad)
                read += len(part.labels)
                if len(part.labels):
                    yield part.images, part.labels
        if len(rows) and not read:
            raise UserError(
                "config.data.source: expected images to evaluate with, got none that "
                "can be read"
            )


class LabelledCrops(pipeline.CropSource):
    """Crops of labelled images; a substitute continues its position's generator."""

    def _generators(self, epoch: int, place: int) -> Iterator[np.random.Generator]:
        return itertools.repeat(np.random.default_rng((*self._seed, epoch, place)))


def open_part(
    dataset: Dataset,
    name: Literal["train", "evaluation_train", "test"],
    *,
    size_pixels: int = 0,
    bad: pipeline.BadImages | None = None,
) -> Part | None:
    """Opens a part of a data set; None if it has no such part.

    Args:
        dataset: the set.
        name: the pretraining part, the part that evaluation learns from, or the
            held-out part.
        size_pixels: size of the network's input if the host crops.
        bad: counter of unreadable images; None makes a new one.
    """
    if isinstance(dataset, ArrayDataset):
        split = "test" if name == "test" else "train"
        examples = getattr(dataset, f"{split}_examples")
        if not len(examples):
            return None
        return ArrayPart(examples, getattr(dataset, f"{split}_labels"))
    assert isinstance(dataset, RecordDataset)
    records: Records | None = getattr(dataset, name)
    if records is None:
        return None
    if bad is None:
        called = dataset.name + (", held out" if name == "test" else "")
        bad = pipeline.BadImages(called, count=len(records), share=dataset.bad_share)
    return RecordPart(records, size_pixels, bad, dataset.workers)


def labelled_parts(
    dataset: Dataset, *, size_pixels: int = 0, bad: pipeline.BadImages | None = None
) -> tuple[Part, Part]:
    """The labelled training part and the held-out part.

    Args:
        dataset: the set.
        size_pixels: size of the network's input if the host crops.
        bad: counter of unreadable pretraining images, which may be shared; None makes a
            new one.

    Raises:
        ValueError: the set has no labels.
    """
    if not dataset.has_labels:
        raise ValueError(
            f"expected images with labels to evaluate, got {dataset.name} without"
        )
    if getattr(dataset, "labelled", None) is not None:
        bad = None  # it is the counter of other images
    train = open_part(dataset, "evaluation_train", size_pixels=size_pixels, bad=bad)
    test = open_part(dataset, "test", size_pixels=size_pixels)
    assert train is not None
    if test is None:
        raise ValueError(
            f"expected held-out examples to evaluate, got {dataset.name} without"
        )
    return train, test


def spread_rows(count: int, at_most: int | None) -> Int[np.ndarray, " m"]:
    """Takes evenly at most so many of `count` rows."""
    wanted = count if at_most is None else min(count, at_most)
    return np.linspace(0, count - 1, wanted).round().astype(int)


def training_view(views: Views) -> View:
    """The augmentation of a classifier's training images.

    Photographs get RandomResizedCrop and flip, as in the published protocols. Other
    images get the first view of pretraining, because a mirrored digit is no digit.
    """
    photos = [view for view in views.views if isinstance(view, PhotoView)]
    if len(photos) < len(views.views):
        return views.views[0]
    return PhotoView(
        size_pixels=max(view.size_pixels for view in photos),
        crop_scale=CROP_SCALE,
        jitter_probability=0.0,
        gray_probability=0.0,
        blur_probability=0.0,
    )


def choose_rows(part: Part, *, share: float, seed: int) -> Int[np.ndarray, " m"]:
    """A share of a part's rows, in order.

    If all labels are known, it is that share of each class, at least one row; otherwise
    it is a share of all rows.

    Raises:
        ValueError: the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: expected a number in (0, 1], got {share}")
    rng = np.random.default_rng(seed)
    labels = np.zeros(len(part), int) if part.labels is None else part.labels
    chosen = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: max(round(share * len(rows)), 1)])
    return np.sort(np.concatenate(chosen))
