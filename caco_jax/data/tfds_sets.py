"""Opens prepared TFDS image sets without TensorFlow."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from caco_jax.data.records import TfdsRecords


class Splits(NamedTuple):
    """Names of a set's splits, as TFDS writes them.

    Attributes:
        train: pretraining split.
        test: held-out split for evaluation.
        labelled: split that evaluation learns from if `train` has no labels.
    """

    train: str
    test: str | None
    labelled: str | None = None


# For other sets: train, and the first of test and validation.
KNOWN_SPLITS = {
    "imagenet2012": Splits("train", "validation"),  # the test split has no labels
    "stl10": Splits("unlabelled", "test", "train"),
    "voc": Splits("train+validation", "test"),
}
_NAME = re.compile(r"(\w+)(?:/([\w.\-]+))?(?::(\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class TfdsSplits(NamedTuple):
    """The records of a set.

    Attributes:
        train: pretraining split.
        test: held-out split, or None.
        labelled: split that evaluation learns from if `train` has no labels.
        class_names: empty if images have no single label.
        shape: [H, W, C] if it is the same for all images, else None.
    """

    train: TfdsRecords
    test: TfdsRecords | None
    labelled: TfdsRecords | None
    class_names: tuple[str, ...]
    shape: tuple[int, int, int] | None


def prepare_command(name: str, data_dir: Path | None) -> str:
    """The command that prepares a set."""
    directory = "DIR" if data_dir is None else data_dir
    return f"caco prepare --dataset=tfds:{name} --data_dir={directory}"


def open_tfds(
    name: str,
    data_dir: Path | None,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
) -> TfdsSplits:
    """Opens a set that `caco prepare` has prepared.

    Args:
        name: "set", "set/config", "set:1.2.3" or "set/config:1.2.3".
        data_dir: directory that it was prepared in.
        train_split: None: the set's usual one; for STL-10 the unlabelled split.
        test_split: None: the set's usual one, if it has one.

    Raises:
        ValueError: it is missing, unreadable, not in ArrayRecord, or has no images.
    """
    directory = find_directory(name, data_dir)
    builder = read_builder(directory, name, data_dir)
    image_key, label_key = find_keys(builder, name)
    features, sizes = builder.info.features, builder.info.splits
    usual = KNOWN_SPLITS.get(base_name(name)) or Splits(
        "train", next((s for s in ("test", "validation") if s in sizes), None)
    )
    trained_on = re.split(r"[+\[]", train_split or usual.train)
    labelled = usual.labelled if usual.train in trained_on else None

    def records(key: str, split: str | None) -> TfdsRecords | None:
        if split is None:
            return None
        count = _count(sizes, split, f"data.{key}", name)
        return TfdsRecords(
            directory, split, count=count, image_key=image_key, label_key=label_key
        )

    train = records("train_split", train_split or usual.train)
    assert train is not None
    shape = features[image_key].shape
    return TfdsSplits(
        train,
        records("test_split", test_split or usual.test),
        records("train_split", labelled),
        tuple(features[label_key].names) if label_key else (),
        None if None in shape else shape,
    )


def base_name(name: str) -> str:
    """A set's name without its config and version."""
    return name.partition(":")[0].partition("/")[0]


def find_directory(name: str, data_dir: Path | None) -> Path:
    """The directory of a prepared set; of the newest version if none is named.

    Raises:
        ValueError: it is missing, or has several configs and none is named.
    """
    if data_dir is None:
        raise ValueError(
            f"data.data_dir: expected the directory where tfds:{name} was prepared, "
            f"got None; to prepare it: {prepare_command(name, None)}"
        )
    fitting = _fitting(name, data_dir)
    if not fitting:
        there = ", ".join(
            str(row.path.relative_to(data_dir))
            for row in _prepared(data_dir / base_name(name))
        )
        raise ValueError(
            f"data.source: expected a set that was prepared in {data_dir}"
            f"{f' ({there})' if there else ''}, got tfds:{name}; to prepare it: "
            f"{prepare_command(name, data_dir)}"
        )
    configs = sorted({row.config for row in fitting if row.config is not None})
    if len(configs) > 1:
        raise ValueError(
            f"data.source: expected one config of tfds:{name}, as in "
            f"tfds:{base_name(name)}/{configs[0]}, got several in {data_dir}: "
            f"{', '.join(configs)}"
        )
    return max(fitting, key=lambda row: [*map(int, row.version.split("."))]).path


def is_prepared(name: str, data_dir: Path) -> bool:
    """Whether a set is prepared in the named config and version."""
    return bool(_fitting(name, data_dir))


class _Prepared(NamedTuple):
    config: str | None
    version: str
    path: Path


def _fitting(name: str, data_dir: Path) -> list[_Prepared]:
    """The prepared versions of a set that match the named config and version."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            "data.source: after tfds: expected NAME, NAME/CONFIG or either with :1.2.3 "
            f"behind it, got {name!r}"
        )
    base, config, version = match.groups()
    try:
        found = _prepared(data_dir / base)
    except PermissionError:
        raise ValueError(
            f"data.data_dir: no permission to read {data_dir / base}"
        ) from None
    return [
        row
        for row in found
        if config in (None, row.config) and version in (None, row.version)
    ]


def _prepared(root: Path) -> list[_Prepared]:
    """The prepared versions below a set's directory."""

    def versions(directory: Path, config: str | None) -> list[_Prepared]:
        return [
            _Prepared(config, path.name, path)
            for path in _directories(directory)
            if _VERSION.fullmatch(path.name) and (path / "dataset_info.json").is_file()
        ]

    found = versions(root, None)
    for path in _directories(root):
        if not _VERSION.fullmatch(path.name):
            found += versions(path, path.name)
    return found


def _directories(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_builder(directory: Path, name: str, data_dir: Path | None) -> Any:
    """TFDS's description of a prepared set; its images are not opened.

    Raises:
        ValueError: it is in another format than ArrayRecord.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(directory)
    formats = {form.value for form in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise ValueError(
            f"data.source: expected {directory} in array_record, got "
            f"{', '.join(sorted(formats))}; remove it and prepare it again: "
            f"{prepare_command(name, data_dir)}"
        )
    return builder


def find_keys(builder: Any, name: str) -> tuple[str, str | None]:
    """The features that are the image and its class; no class: None.

    Raises:
        ValueError: no feature is an image.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    usual = builder.info.supervised_keys or ()

    def first(kind: type, names: Sequence[Any]) -> str | None:
        keys = (key for key in names if isinstance(key, str) and key in features)
        return next((key for key in keys if isinstance(features[key], kind)), None)

    image = first(tfds.features.Image, (*usual[:1], "image", *sorted(features)))
    if image is None:
        raise ValueError(
            f"data.source: expected a set with images, got tfds:{name} with the "
            f"features {', '.join(sorted(features))}"
        )
    return image, first(tfds.features.ClassLabel, (*usual[1:2], "label"))


def _count(sizes: Any, split: str, key: str, name: str) -> int:
    try:
        return int(sizes[split].num_examples)
    except (KeyError, ValueError):
        raise ValueError(
            f"{key}: expected a split of tfds:{name}, of {', '.join(sizes)}, or a part "
            f"as in {next(iter(sizes))}[:90%], got {split!r}"
        ) from None
