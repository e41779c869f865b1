"""Splits of image files: training records and held-out records."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int, Int32

from caco_jax.data.dataset import hold_out
from caco_jax.data.records import Records


class ImageSplits(NamedTuple):
    """The records of a source of image files.

    Attributes:
        train: training records.
        test: held-out records; None if there are no classes.
        class_names: in natural order; empty without classes.
        notes: lines on how the layout was interpreted and what was ignored.
    """

    train: Records
    test: Records | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


class ImageListing(Protocol):
    """A list of images with the names of their classes."""

    def records(
        self, class_names: Sequence[str], rows: Int[np.ndarray, " m"] | None = None
    ) -> Records:
        """The images as records, labelled by the index of their class."""

    def numbers(self, class_names: Sequence[str]) -> Int32[np.ndarray, " m"]:
        """The index of each image's class."""


def class_numbers(
    classes: Sequence[str], class_names: Sequence[str]
) -> Int32[np.ndarray, " m"]:
    """The index of each class."""
    place = {name: index for index, name in enumerate(class_names)}
    return np.array([place[name] for name in classes], np.int32)


def split_images(
    train: ImageListing,
    test: ImageListing | None,
    class_names: tuple[str, ...],
    *,
    seed: int,
    notes: tuple[str, ...],
) -> ImageSplits:
    """Makes splits; without a test listing a share of each class is held out.

    Args:
        train: the training images.
        test: the held-out images; None if the source has none.
        class_names: names of the classes; empty without classes.
        seed: seed that draws the held-out share.
        notes: see `ImageSplits`.
    """
    if test is not None:
        return ImageSplits(
            train.records(class_names), test.records(class_names), class_names, notes
        )
    if not class_names:
        return ImageSplits(train.records(()), None, (), notes)
    kept, held_out = hold_out(train.numbers(class_names), seed=seed)
    return ImageSplits(
        train.records(class_names, kept),
        train.records(class_names, held_out),
        class_names,
        notes,
    )
