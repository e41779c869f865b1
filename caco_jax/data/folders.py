"""Image folders: splits and classes inferred from the layout of a directory."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from caco_jax.data import heif
from caco_jax.data.dataset import some_names
from caco_jax.data.records import FolderRecords
from caco_jax.data.split_names import (
    HELD_OUT,
    TRAIN,
    looks_like_split,
    mixes_splits,
    role_of,
)
from caco_jax.data.splits import ImageSplits, class_numbers, split_images

logger = logging.getLogger("caco_jax")

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp"),
    *(".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *heif.SUFFIXES,
)
# Files that file servers and systems put beside images, in lower case.
_SYSTEM_FOLDERS = {
    *("#recycle", "#snapshot", "recycler", "recycled", "system volume information"),
    *("__macosx", "lost+found", "network trash folder", "temporary items"),
    *("thevolumesettingsfolder", "found.000", "thumbs.db", "__pycache__"),
}
_SYSTEM_PREFIXES = ("@", "$")  # @eaDir, @Recycle, $RECYCLE.BIN
# A smaller share of images beside the class folders is ignored.
_STRAY_SHARE = 0.2
_ANNOTATIONS = "val_annotations.txt"  # Tiny ImageNet's: file, tab, class, ...


class Listing(NamedTuple):
    """The images of a directory.

    Attributes:
        root: the directory.
        paths: relative to it, in natural order.
        classes: the class of each path; empty where the directory names none.
        ignored: numbers of ignored files, by kind.
    """

    root: Path
    paths: tuple[str, ...]
    classes: tuple[str, ...]
    ignored: Counter[str]

    def records(
        self, class_names: Sequence[str], rows: Int[np.ndarray, " m"] | None = None
    ) -> FolderRecords:
        """The images as records, labelled by the index of their class."""
        rows = np.arange(len(self.paths)) if rows is None else rows
        labels = self.numbers(class_names)[rows] if class_names else None
        return FolderRecords(self.root, [self.paths[row] for row in rows], labels)

    def numbers(self, class_names: Sequence[str]) -> Int32[np.ndarray, " m"]:
        """The index of each image's class."""
        return class_numbers(self.classes, class_names)


def open_folder(
    root: Path,
    *,
    seed: int = 0,
    train_split: str | None = None,
    test_split: str | None = None,
) -> ImageSplits:
    """Finds the images below a directory, with splits and classes from its layout.

    Sub-folders are classes, unless there are fewer than two or many images lie beside
    them; then there are no classes. A few images beside them are ignored. A sub-folder
    with a name of the training split (see `split_names`) is the training split, and the
    first one with a name of a held-out split and the same classes is the test split;
    classes are then one level below. Without a test split a tenth of each class is held
    out. Ambiguous layouts are refused. Tiny ImageNet's ``val_annotations.txt`` is
    supported. Hidden files, folders of the system, and files whose suffix is not in
    `SUFFIXES` are ignored; whether a file is an image is checked when it is decoded.

    Args:
        root: the directory.
        seed: seed that draws the held-out tenth.
        train_split: a sub-folder; ".": the directory itself, whatever the names of its
            sub-folders; None: inferred.
        test_split: a sub-folder; None: inferred.

    Raises:
        ValueError: no such directory, no permission, no images, an ambiguous layout, or
            a test class that is no training class.
    """
    folders = _sub_folders(root)
    train_name = train_split or _train_folder(root, folders)
    if train_name is None and test_split is not None:
        raise ValueError(
            f"data.train_split: expected a sub-folder of {root} beside data.test_split "
            f"{test_split!r}, got None"
        )
    train = list_images(_named(root, train_name, folders, "train_split"))
    if not train.paths:
        raise ValueError(
            f"data.source: expected images in {train.root}, got none with a suffix of "
            f"{', '.join(SUFFIXES)}"
            f"{_but_ignored(train.ignored)}"
        )
    if train_split is None and mixes_splits(train.paths):
        below = train.paths[0].split(os.sep, 1)[0]
        raise _not_understood(train.root, f"splits lie below {below}")
    class_names = tuple(sorted(set(train.classes), key=natural_key))
    test: Listing | None = None
    if test_split is not None:
        test = list_images(_named(root, test_split, folders, "test_split"), True)
    elif train_name not in (None, ".") and class_names:
        test = _test_listing(root, folders, class_names)
    notes = _notes(root, folders, train, test)
    if test is not None:
        _check_classes(train, test)
    return split_images(train, test, class_names, seed=seed, notes=notes)


def _train_folder(root: Path, folders: Sequence[str]) -> str | None:
    """The training sub-folder, or None if the sub-folders are classes.

    Raises:
        ValueError: they look like splits, but their roles are ambiguous.
    """
    roles = {name: role_of(name) for name in folders}
    train = [name for name, role in roles.items() if role == TRAIN]
    held_out = [name for name, role in roles.items() if role in HELD_OUT]
    others = [name for name, role in roles.items() if role is None]
    if len(train) > 1:
        raise _not_understood(root, f"{', '.join(train)} may each be trained on")
    if train:
        # "train" may be one class of many, as in VOC and COCO.
        if not held_out and not _has_folders(root / train[0]):
            beside = [name for name in others if _has_images(root / name)]
            if beside:
                raise _not_understood(root, f"{train[0]} may be a split or a class")
        return train[0]
    if any(_has_images(root / name) for name in held_out):
        raise _not_understood(root, f"{', '.join(held_out)} without a training split")
    likely = [name for name in others if looks_like_split(name)]
    if likely and 2 * len(likely) >= sum(_has_images(root / n) for n in others):
        raise _not_understood(root, f"{some_names(likely)} may be splits or classes")
    return None


def _has_folders(root: Path) -> bool:
    """Whether there are images in a sub-folder."""
    return any(_has_images(root / name) for name in _sub_folders(root))


def _not_understood(root: Path, what: str) -> ValueError:
    return ValueError(
        f"data.train_split: expected a sub-folder to train on, got None for {root}: "
        f"{what}; name a sub-folder here and another as data.test_split, or '.' where "
        "the sub-folders are classes"
    )


def _has_images(root: Path) -> bool:
    return next(_walk(root, Counter()), None) is not None


def _notes(
    root: Path, folders: Sequence[str], train: Listing, test: Listing | None
) -> tuple[str, ...]:
    """Lines on how the layout was interpreted."""
    if test is not None:
        judged = f"held out: {os.path.relpath(test.root, root)}"
    elif train.classes:
        judged = "held out: a tenth of each class"
    else:
        judged = (
            "no classes: images lie beside the sub-folders, or fewer than two have any"
        )
    trained = os.path.relpath(train.root, root)
    notes = [f"trained on: {'all' if trained == '.' else trained}; {judged}"]
    ignored = train.ignored + (Counter() if test is None else test.ignored)
    if train.root != root:
        used = {train.root, None if test is None else test.root}
        for name in folders:
            if root / name not in used and (count := _count_images(root / name)):
                ignored[f"images in {name}, which is not used"] += count
    if ignored:
        notes.append(f"ignored: {_by_kind(ignored)}")
    if to_do := heif.remedies(ignored):
        logger.warning(
            "data.source: %s in %s cannot be read and are left out: %s",
            _by_kind(Counter({k: n for k, n in ignored.items() if heif.remedy(k)})),
            root,
            " and ".join(to_do),
        )
    return tuple(notes)


def _count_images(root: Path) -> int:
    return sum(1 for _ in _walk(root, Counter()))


def _by_kind(ignored: Counter[str]) -> str:
    return ", ".join(f"{kind} ({count:,})" for kind, count in ignored.most_common())


def _but_ignored(ignored: Counter[str]) -> str:
    to_do = "".join(f"; to read them: {line}" for line in heif.remedies(ignored))
    return f"; ignored: {_by_kind(ignored)}{to_do}" if ignored else ""


def _test_listing(
    root: Path, folders: Sequence[str], class_names: Sequence[str]
) -> Listing | None:
    """The first test folder with the training classes, or else the first one."""
    known = [n for role in HELD_OUT for n in folders if role_of(n) == role]
    listings = [list_images(root / name, True) for name in known]
    listings = [listing for listing in listings if listing.paths]
    fitting = [
        listing
        for listing in listings
        if listing.classes and set(listing.classes) <= set(class_names)
    ]
    return next(iter(fitting + listings), None)


def _check_classes(train: Listing, test: Listing) -> None:
    if not test.paths:
        raise ValueError(f"data.source: expected test images in {test.root}, got none")
    if not train.classes or not test.classes:
        side = train if not train.classes else test
        raise ValueError(
            f"data.source: expected classes in both splits, got none in {side.root}: "
            "images lie beside its sub-folders, or it has fewer than two; name "
            f"folder:{train.root} to hold out a tenth of that"
        )
    unknown = set(test.classes) - set(train.classes)
    if unknown:
        raise ValueError(
            f"data.source: expected every class of {test.root} in {train.root} too, "
            f"got {some_names(unknown)} in the test split only"
        )
    untested = set(train.classes) - set(test.classes)
    if untested:
        logger.warning(
            "data.source: %s has no image of %s: the accuracy on these classes is "
            "unknown",
            test.root,
            some_names(untested),
        )


def list_images(root: Path, all_classes: bool = False) -> Listing:
    """Lists the images below a directory, with their classes from its sub-folders.

    Args:
        root: the directory.
        all_classes: whether a single sub-folder is a class too, and images beside it
            have none.

    Raises:
        ValueError: the directory cannot be listed.
    """
    ignored: Counter[str] = Counter()
    paths = sorted(_walk(root, ignored), key=natural_key)
    annotations = root / _ANNOTATIONS
    if annotations.is_file():
        return _annotated(root, paths, annotations, ignored)
    inside = [path for path in paths if os.sep in path]
    strays = len(paths) - len(inside)
    classes = [path.split(os.sep, 1)[0] for path in inside]
    if len(set(classes)) < (1 if all_classes else 2):
        return Listing(root, tuple(paths), (), ignored)
    if strays >= _STRAY_SHARE * len(paths) and strays and not all_classes:
        logger.warning(
            "data.source: %d images lie beside the folders %s of %s: no classes; move "
            "them into a folder if the others are classes",
            strays,
            some_names(set(classes)),
            root,
        )
        return Listing(root, tuple(paths), (), ignored)
    if strays:
        first = next(path for path in paths if os.sep not in path)
        ignored[f"images beside the classes' folders, such as {first}"] += strays
    return Listing(root, tuple(inside), tuple(classes), ignored)


def _annotated(
    root: Path, paths: Sequence[str], annotations: Path, ignored: Counter[str]
) -> Listing:
    try:
        text = annotations.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ValueError(
            f"data.source: expected {annotations} readable: {error.strerror}"
        ) from None
    lines = (line.split("\t") for line in text.splitlines())
    classes = {fields[0]: fields[1] for fields in lines if len(fields) > 1}
    known = [path for path in paths if os.path.basename(path) in classes]
    of_paths = tuple(classes[os.path.basename(path)] for path in known)
    if len(known) < len(paths):
        ignored[f"images that {_ANNOTATIONS} does not name"] += len(paths) - len(known)
    return Listing(root, tuple(known), of_paths, ignored)


def _walk(root: Path, ignored: Counter[str]) -> Iterator[str]:
    """Relative paths of all images below; links do not visit a directory twice.

    Args:
        root: the directory.
        ignored: counts ignored files by kind.
    """
    unread = {suffix for suffix in heif.SUFFIXES if heif.remedy(suffix)}
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        for entry in _scan(root / below):
            path = os.path.join(below, entry.name)
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                ignored["hidden files"] += 1
                continue
            place = _directory(entry)
            if place is not None:
                if _is_system(entry.name):
                    ignored[f"the system's {entry.name}"] += 1
                elif place not in seen:
                    seen.add(place)
                    waiting.append(path)
            elif not entry.name.lower().endswith(SUFFIXES) or suffix in unread:
                ignored[suffix or "files without a suffix"] += 1
            elif _is_special(entry):
                ignored["pipes and devices"] += 1
            else:
                yield path


def _directory(entry: os.DirEntry) -> tuple[int, int] | None:
    """Identity of a directory (device, inode), or None if it is no directory."""
    try:
        status = entry.stat() if entry.is_dir() else None
    except OSError:  # a link to itself, or to a place without permission
        return None
    return status and (status.st_dev, status.st_ino)


def _is_special(entry: os.DirEntry) -> bool:
    """Whether opening a file could block for ever (pipe, device)."""
    try:
        return not entry.is_file() and os.path.exists(entry.path)
    except OSError:
        return False


def _is_system(name: str) -> bool:
    return name.startswith(_SYSTEM_PREFIXES) or name.lower() in _SYSTEM_FOLDERS


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
    except OSError as error:
        problem = error.strerror or type(error).__name__
    raise ValueError(
        f"data.source: expected a directory of images, got {directory}: {problem}"
    )


def _sub_folders(root: Path) -> list[str]:
    return sorted(
        entry.name
        for entry in _scan(root)
        if _directory(entry) is not None
        and not entry.name.startswith(".")
        and not _is_system(entry.name)
    )


def _named(root: Path, name: str | None, folders: Sequence[str], key: str) -> Path:
    if name in (None, "."):
        return root
    if not (root / name).is_dir():
        raise ValueError(
            f"data.{key}: expected a sub-folder of {root}, one of "
            f"{', '.join(folders) or 'none'}, got {name!r}"
        )
    return root / name


def natural_key(path: str) -> list[tuple[int, int, str]]:
    """Key of natural order: cat2 before cat10."""
    pieces = re.split(r"(\d+)", path)
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in pieces if p]
