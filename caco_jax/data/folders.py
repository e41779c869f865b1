"""A person's own images: what a directory's layout says about splits and classes."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from caco_jax.data.dataset import hold_out
from caco_jax.data.records import FolderRecords

logger = logging.getLogger("caco_jax")

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp"),
    *(".gif", ".tif", ".tiff", ".ppm", ".pgm"),
)
TEST_NAMES = ("test", "val", "validation")
_ANNOTATIONS = "val_annotations.txt"  # Tiny ImageNet's: file, tab, class, ...


class Listing(NamedTuple):
    """The images of a directory.

    Attributes:
        root: the directory.
        paths: relative to it, in natural order.
        classes: the class of each path; empty where the directory names none.
    """

    root: Path
    paths: tuple[str, ...]
    classes: tuple[str, ...]

    def records(
        self, class_names: Sequence[str], rows: Int[np.ndarray, " m"] | None = None
    ) -> FolderRecords:
        """The images as records, labelled by the place of their class in the names."""
        rows = np.arange(len(self.paths)) if rows is None else rows
        labels = self.labels(class_names)[rows] if class_names else None
        return FolderRecords(self.root, [self.paths[row] for row in rows], labels)

    def labels(self, class_names: Sequence[str]) -> Int32[np.ndarray, " m"]:
        """The place of each image's class in the names."""
        place = {name: index for index, name in enumerate(class_names)}
        return np.array([place[name] for name in self.classes], np.int32)


class FolderSplits(NamedTuple):
    """The records of a directory.

    Attributes:
        train: to learn from.
        test: held out; None where there are no classes.
        class_names: in natural order; empty where there are no classes.
    """

    train: FolderRecords
    test: FolderRecords | None
    class_names: tuple[str, ...]


def open_folder(
    root: Path,
    *,
    seed: int = 0,
    train_split: str | None = None,
    test_split: str | None = None,
) -> FolderSplits:
    """Finds the images below a directory, and what its layout says of them.

    Sub-folders are classes, unless there are fewer than two or images lie beside them;
    then there are no classes. A sub-folder ``train`` is the training split, and the
    first of ``test``, ``val`` and ``validation`` that has its classes is the test
    split: the classes are then one level below. Without one, a tenth of each class is
    held out. Tiny ImageNet's ``val_annotations.txt`` is understood. Hidden files, and
    files whose suffix is none of `SUFFIXES`, are ignored; whether a file is an image
    shows when it is decoded.

    Args:
        root: the directory.
        seed: draws the tenth.
        train_split: a sub-folder; None: ``train``, or else the directory itself.
        test_split: a sub-folder; None: as said.

    Raises:
        ValueError: no such directory, no permission, fewer than two images, or a test
            class that is no training class.
    """
    folders = _sub_folders(root)
    train_name = train_split or ("train" if "train" in folders else None)
    if train_name is None and test_split is not None:
        raise ValueError(
            f"data.train_split: want a sub-folder of {root} beside data.test_split "
            f"{test_split!r}, got None"
        )
    train = list_images(_named(root, train_name, folders, "train_split"))
    if len(train.paths) < 2:
        raise ValueError(
            f"data.source: want at least 2 images in {train.root}, got "
            f"{len(train.paths)} with a suffix of {', '.join(SUFFIXES)}"
        )
    class_names = tuple(sorted(set(train.classes), key=natural_key))
    test: Listing | None = None
    if test_split is not None:
        test = list_images(_named(root, test_split, folders, "test_split"), True)
    elif train_name is not None and class_names:
        test = _test_listing(root, folders, class_names)
    if test is None:
        return _hold_out(train, class_names, seed)
    _check_classes(train, test)
    return FolderSplits(
        train.records(class_names), test.records(class_names), class_names
    )


def _hold_out(train: Listing, class_names: tuple[str, ...], seed: int) -> FolderSplits:
    if not class_names:  # without labels there is nothing to evaluate
        return FolderSplits(train.records(()), None, ())
    kept, held_out = hold_out(train.labels(class_names), seed=seed)
    return FolderSplits(
        train.records(class_names, kept),
        train.records(class_names, held_out),
        class_names,
    )


def _test_listing(
    root: Path, folders: Sequence[str], class_names: Sequence[str]
) -> Listing | None:
    """The first test folder with the training classes, or else the first."""
    listings = [list_images(root / n, True) for n in TEST_NAMES if n in folders]
    listings = [listing for listing in listings if listing.paths]
    fitting = [
        listing
        for listing in listings
        if listing.classes and set(listing.classes) <= set(class_names)
    ]
    return next(iter(fitting + listings), None)


def _check_classes(train: Listing, test: Listing) -> None:
    if not test.paths:
        raise ValueError(f"data.source: want test images in {test.root}, got none")
    if not train.classes or not test.classes:
        side = train if not train.classes else test
        raise ValueError(
            f"data.source: want classes in both splits, got none in {side.root}: "
            "images lie beside its sub-folders, or it has fewer than two"
        )
    unknown = set(test.classes) - set(train.classes)
    if unknown:
        raise ValueError(
            f"data.source: want every class of {test.root} in {train.root} too, got "
            f"{_some(unknown)} in the test split only"
        )
    untested = set(train.classes) - set(test.classes)
    if untested:
        logger.warning(
            "data.source: %s has no image of %s: nothing says how well they are told "
            "apart",
            test.root,
            _some(untested),
        )


def _some(names: set[str]) -> str:
    first = sorted(names, key=natural_key)
    return f"{', '.join(first[:3])}{' and others' if len(first) > 3 else ''}"


def list_images(root: Path, all_classes: bool = False) -> Listing:
    """The images below a directory, with the classes that its sub-folders name.

    Args:
        root: the directory.
        all_classes: one class alone is a class too.

    Raises:
        ValueError: it cannot be listed.
    """
    paths = sorted(_walk(root), key=natural_key)
    annotations = root / _ANNOTATIONS
    if annotations.is_file():
        return _annotated(root, paths, annotations)
    parents = [path.split(os.sep, 1)[0] if os.sep in path else "" for path in paths]
    if "" in parents or len(set(parents)) < (1 if all_classes else 2):
        parents = []
    return Listing(root, tuple(paths), tuple(parents))


def _annotated(root: Path, paths: Sequence[str], annotations: Path) -> Listing:
    lines = (line.split("\t") for line in annotations.read_text().splitlines())
    classes = {fields[0]: fields[1] for fields in lines if len(fields) > 1}
    known = [path for path in paths if os.path.basename(path) in classes]
    of_paths = tuple(classes[os.path.basename(path)] for path in known)
    return Listing(root, tuple(known), of_paths)


def _walk(root: Path) -> Iterator[str]:
    """Paths of images below, relative; each directory once, whatever links say."""
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        for entry in _scan(root / below):
            path = os.path.join(below, entry.name)
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                status = entry.stat()
                place = (status.st_dev, status.st_ino)
                if place not in seen:
                    seen.add(place)
                    waiting.append(path)
            elif entry.name.lower().endswith(SUFFIXES):
                yield path


def _scan(directory: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        problem = "there is no such directory"
    except NotADirectoryError:
        problem = "it is no directory"
    except PermissionError:
        problem = "no permission to read it"
    raise ValueError(
        f"data.source: want a directory of images, got {directory}: {problem}"
    )


def _sub_folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in _scan(root) if entry.is_dir())


def _named(root: Path, name: str | None, folders: Sequence[str], key: str) -> Path:
    if name is None:
        return root
    if name not in folders:
        raise ValueError(
            f"data.{key}: want a sub-folder of {root}, one of "
            f"{', '.join(folders) or 'none'}, got {name!r}"
        )
    return root / name


def natural_key(path: str) -> list[tuple[int, int, str]]:
    """Sorts as people count: cat2 before cat10."""
    pieces = re.split(r"(\d+)", path)
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in pieces if p]
