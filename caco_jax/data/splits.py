"""Image files that were found, as records to train on and records held out."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int, Int32

from caco_jax.data.dataset import hold_out
from caco_jax.data.records import Records


class ImageSplits(NamedTuple):
    """The records of a source of image files.

    Attributes:
        train: to learn from.
        test: held out; None where there are no classes.
        class_names: in natural order; empty where there are no classes.
        notes: for people: how the layout was understood, and what was ignored.
    """

    train: Records
    test: Records | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


class ImageListing(Protocol):
    """Images that were found, with what their classes are called."""

    def records(
        self, class_names: Sequence[str], rows: Int[np.ndarray, " m"] | None = None
    ) -> Records:
        """The images as records, labelled by the place of their class in the names."""

    def numbers(self, class_names: Sequence[str]) -> Int32[np.ndarray, " m"]:
        """The place of each image's class in the names."""


def class_numbers(
    classes: Sequence[str], class_names: Sequence[str]
) -> Int32[np.ndarray, " m"]:
    """The place of each class in the names."""
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
    """Listings as splits; without a test one a share of each class is held out.

    Args:
        train: what is trained on.
        test: what is held out; None where the source names nothing.
        class_names: of both; empty where there are none, and nothing to evaluate.
        seed: draws the share.
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
