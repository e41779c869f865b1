"""Reader of WebDataset tar shards: KEY.jpg beside KEY.cls or KEY.json.

Headers are read once, when the set is opened; images are then read by their offset, in
any order and by any process.
"""

import json
import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from caco_jax.data.dataset import some_names
from caco_jax.data.folders import SUFFIXES, natural_key
from caco_jax.data.records import Place, ShardRecords
from caco_jax.data.split_names import HELD_OUT, TRAIN, role_of
from caco_jax.data.splits import ImageSplits, class_numbers, split_images

logger = logging.getLogger("caco_jax")

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*)\}")
_GZIP = b"\x1f\x8b"
_MANY_SHARDS = 50  # reading the headers may take a while
_THREADS = 4


class Listing(NamedTuple):
    """The images of some shards.

    Attributes:
        shards: files, in natural order.
        places: positions of the images in them.
        labels: label of each image, as written; empty if no image has one.
        ignored: numbers of other files, by suffix.
    """

    shards: tuple[Path, ...]
    places: tuple[Place, ...]
    labels: tuple[str, ...]
    ignored: Counter[str]

    def records(
        self, class_names: Sequence[str], rows: Int[np.ndarray, " m"] | None = None
    ) -> ShardRecords:
        """The images as records, labelled by the index of their class."""
        rows = np.arange(len(self.places)) if rows is None else rows
        labels = self.numbers(class_names)[rows] if class_names else None
        return ShardRecords(self.shards, [self.places[row] for row in rows], labels)

    def numbers(self, class_names: Sequence[str]) -> Int32[np.ndarray, " m"]:
        """The index of each image's class."""
        return class_numbers(self.labels, class_names)


def open_shards(
    path: Path,
    *,
    seed: int = 0,
    train_split: str | None = None,
    test_split: str | None = None,
) -> ImageSplits:
    """Finds the images in tar files, with the splits that file names state.

    Files whose name or folder has a word for the training split, as in
    ``imagenet-train-000017.tar``, are the training split; those with a word for the
    test or validation split are held out. Without such words, or without held-out
    files, a tenth of each class is held out.

    Args:
        path: a tar file, a folder of them, or several with braces:
            ``PATH/train-{000000..000009}.tar``.
        seed: seed that draws the held-out tenth.
        train_split: training shards, a path below the folder; None: inferred.
        test_split: held-out shards, a path below the folder; None: inferred.

    Raises:
        ValueError: there are no such files, one is no tar file or cut short, labels are
            missing, or a held-out class is no training class.
    """
    train_files, test_files, unused = _split(path, train_split, test_split)
    train = list_images(train_files)
    if not train.places:
        raise ValueError(
            f"data.source: expected images in {path}, got none"
            f"{_ignored(train.ignored, '; ignored: ')}"
        )
    class_names = tuple(sorted(set(train.labels), key=natural_key))
    test = list_images(test_files) if test_files and class_names else None
    notes = _notes(train, test, unused)
    if test is not None:
        _check_classes(train, test)
    return split_images(train, test, class_names, seed=seed, notes=notes)


def _split(
    path: Path, train_split: str | None, test_split: str | None
) -> tuple[list[Path], list[Path], list[Path]]:
    """The training files, the held-out files, and the ignored ones."""
    if train_split is not None:
        train = find_shards(path / train_split, "train_split")
        test = (
            [] if test_split is None else find_shards(path / test_split, "test_split")
        )
        return train, test, []
    if test_split is not None:
        raise ValueError(
            "data.train_split: expected the shards to train on beside data.test_split "
            f"{test_split!r}, got None"
        )
    files = find_shards(path, "source")
    roles = [_role(file, path) for file in files]
    held_out = next((role for role in HELD_OUT if role in roles), None)
    if TRAIN not in roles:
        if held_out and None in roles:
            raise ValueError(
                f"data.train_split: expected the shards to train on, {path} has "
                f"{held_out} shards without training shards; name them here and as "
                "data.test_split"
            )
        return files, [], []

    def of(wanted: str | None) -> list[Path]:
        return [file for file, role in zip(files, roles, strict=True) if role == wanted]

    test = of(held_out) if held_out else []
    return of(TRAIN), test, [file for file in files if file not in {*of(TRAIN), *test}]


def _role(file: Path, path: Path) -> str | None:
    """The split that a word of a file's or folder's name states."""
    below = file.relative_to(path) if path in file.parents else Path(file.name)
    words = re.split(r"[-_.]", below.stem)
    roles = (role_of(name) for name in (*reversed(words), *below.parts[:-1]))
    return next((role for role in roles if role), None)


def find_shards(path: Path, key: str) -> list[Path]:
    """The tar files of a path, in natural order.

    Args:
        path: a file, a folder, or either with braces in it.
        key: key of the section ``data``, for messages.

    Raises:
        ValueError: there are none, or one does not exist.
    """
    found: list[Path] = []
    for name in expand_braces(str(path)):
        place = Path(name)
        below = sorted(place.rglob("*.tar"), key=lambda file: natural_key(str(file)))
        files = below if place.is_dir() else [place]
        missing = next((file for file in files if not file.is_file()), None)
        if missing is not None or not files:
            reason = (
                "no .tar files in it" if place.is_dir() else "there is no such file"
            )
            raise ValueError(
                f"data.{key}: expected tar files, a folder of them, or several as in "
                f"shard-{{000..009}}.tar, got {missing or place}: {reason}"
            )
        found += [file for file in files if not file.name.startswith(".")]
    return found


def expand_braces(text: str) -> Iterator[str]:
    """Expands braces as a shell does: ``a-{08..10}`` and ``{a,b}``."""
    found = _RANGE.search(text)
    if found is None:
        yield text
        return
    first, last, listed = found.groups()
    if first is None:
        inner = listed.split(",")
    else:
        numbers = range(int(first), int(last) + 1)
        inner = [f"{number:0{len(first)}}" for number in numbers]
    for word in inner:
        yield from expand_braces(f"{text[: found.start()]}{word}{text[found.end() :]}")


def list_images(shards: Sequence[Path]) -> Listing:
    """The images of shards, with their labels.

    Args:
        shards: tar files.

    Raises:
        ValueError: one cannot be read to its end, or some images have no label.
    """
    if len(shards) >= _MANY_SHARDS:
        logger.info("reading the headers of %d shards", len(shards))
    # Some threads, to wait for a slow disk in parallel; more would wait for Python's
    # lock.
    with ThreadPoolExecutor(_THREADS) as threads:
        read = list(threads.map(_read_headers, shards))
    places: list[Place] = []
    labels: list[str | None] = []
    ignored: Counter[str] = Counter()
    for number, (images, known, others) in enumerate(read):
        places += [Place(number, *image) for image in images.values()]
        labels += [known.get(key) for key in images]
        ignored += others
    named = [label for label in labels if label is not None]
    if named and len(named) < len(labels):
        first = places[labels.index(None)]
        raise ValueError(
            "data.source: expected a .cls or .json with a label beside each image, got "
            f"{len(labels) - len(named):,} images without, such as {first.name} of "
            f"{shards[first.shard]}"
        )
    return Listing(tuple(shards), tuple(places), tuple(named), ignored)


_Image = tuple[int, int, str]  # offset, bytes, name


def _read_headers(
    shard: Path,
) -> tuple[dict[str, _Image], dict[str, str], Counter[str]]:
    """Images and labels by key, and ignored files."""
    images: dict[str, _Image] = {}
    labels: dict[str, str] = {}
    ignored: Counter[str] = Counter()
    for archive, member in _members(shard):
        folder, base = os.path.split(member.name)
        stem, _, rest = base.partition(".")
        ending = f".{rest.rpartition('.')[2].lower()}"
        key = os.path.join(folder, stem)
        if not stem:  # ._a.jpg and their like, of macOS
            ignored["hidden files"] += 1
        elif ending in SUFFIXES and key not in images:
            images[key] = (member.offset_data, member.size, member.name)
        elif ending in (".cls", ".json"):
            content = archive.extractfile(member)
            label = _label(ending, content.read() if content else b"")
            if label is not None and (ending == ".cls" or key not in labels):
                labels[key] = label
        else:
            ignored[ending] += 1
    return images, labels, ignored


def _members(shard: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The files of a shard; ValueError if it cannot be read to its end."""
    try:
        with tarfile.open(shard, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it keeps all
                if member.isreg():
                    yield archive, member
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, tarfile.ReadError) and _begins_with(shard, _GZIP):
            reason = "it is compressed; gunzip it, because images are read by offset"
        raise ValueError(
            "data.source: expected a tar file that can be read to its end, got "
            f"{shard}: {reason}"
        ) from None


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _label(ending: str, content: bytes) -> str | None:
    """The class in a label file; None if it has none."""
    text = content.decode(errors="replace").strip()
    if ending == ".cls":
        return text or None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    label = value.get("label") if isinstance(value, dict) else None
    is_label = isinstance(label, int | str) and not isinstance(label, bool)
    return str(label) if is_label else None


def _notes(
    train: Listing, test: Listing | None, unused: Sequence[Path]
) -> tuple[str, ...]:
    if test is not None:
        judged = f"held out: {_files(test.shards)}"
    elif train.labels:
        judged = "held out: a tenth of each class"
    else:
        judged = "no labels: no .cls beside the images, and no label in a .json"
    ignored = train.ignored + (Counter() if test is None else test.ignored)
    if unused:
        ignored["shards of other splits"] += len(unused)
    notes = (f"trained on: {_files(train.shards)}; {judged}",)
    return (*notes, _ignored(ignored, "ignored: ")) if ignored else notes


def _files(shards: Sequence[Path]) -> str:
    first, last = shards[0].name, shards[-1].name
    return first if len(shards) == 1 else f"{len(shards):,} shards, {first} to {last}"


def _ignored(ignored: Counter[str], before: str) -> str:
    said = ", ".join(f"{kind} ({count:,})" for kind, count in ignored.most_common())
    return before + said if said else ""


def _check_classes(train: Listing, test: Listing) -> None:
    unknown = set(test.labels) - set(train.labels)
    if unknown or not test.labels:
        got = f"{some_names(unknown)} held out only" if unknown else "none held out"
        raise ValueError(
            f"data.source: expected the classes of {_files(train.shards)} in "
            f"{_files(test.shards)} too, got {got}"
        )
