"""Names of splits in folder names: Training, test_set, valid, Val2017, dev."""

import os
import re
from collections.abc import Iterable
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["train", "test", "val"]
TRAIN: Role = "train"
HELD_OUT: tuple[Role, ...] = ("test", "val")  # in order of preference

_WORDS: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), TRAIN),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(
        ("val", "valid", "validate", "validation", "dev", "development"), "val"
    ),
    **dict.fromkeys(("eval", "evaluation", "holdout", "heldout"), "val"),
}
# Filler words in such names, and other words for splits.
_FILLING = {
    *("set", "sets", "data", "dataset", "split", "image", "images", "img", "imgs"),
    *("pictures", "photos", "samples", "folder", "dir", "the"),
}
_OTHERS = ("split", "fold", "kfold", "query", "gallery", "unlabeled", "unlabelled")


def role_of(name: str) -> Role | None:
    """The split that a folder's name states, in upper or lower case, or None.

    ``Training``, ``test_set``, ``val2017``, ``train-images`` and ``TrainSet`` are
    understood; ``train_station`` and ``test_tube`` are not.
    """
    words = [word for word in _words(name) if word not in _FILLING]
    return _WORDS.get("".join(words))  # HoldOut is one word


def looks_like_split(name: str) -> bool:
    """Whether a folder's name has a word for a split."""
    return any(word in _WORDS or word in _OTHERS for word in _words(name))


def mixes_splits(paths: Iterable[str]) -> bool:
    """Whether files of training and of held-out splits lie below folders of others.

    Args:
        paths: relative paths of files.
    """
    folders = {os.path.dirname(path) for path in paths}
    roles = {role_of(name) for folder in folders for name in folder.split(os.sep)}
    return TRAIN in roles and not roles.isdisjoint(HELD_OUT)


def _words(name: str) -> list[str]:
    """A name's words in lower case, without digits; "TrainSet" and "trainset" too."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    name = re.sub(
        r"(?i)\b(train|training|test|val|dev)(?=(set|data|images)\b)", r"\1 ", name
    )
    return [word for word in re.split(r"[\W\d_]+", name.lower()) if word]
