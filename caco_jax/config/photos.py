"""Automatic settings for your own images: rules for the data set and the machine.

A recipe with ``RULES`` is completed before use: settings that the command line does not
give follow from the number of images, their size, and the devices.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from caco_jax.config.parts import build_data
from caco_jax.config.sections import experiment_config, method_of
from caco_jax.data.dataset import ArrayDataset, Dataset, RecordDataset
from caco_jax.data.decode import image_size
from caco_jax.data.records import UNREADABLE
from caco_jax.runs.machine import device_bytes
from caco_jax.schema import ConfigError, flatten

_SAMPLE = 32  # number of images whose size is read
SMALL_PIXELS = (
    64  # images up to this side count as small; on a CPU all views have this size
)
_LARGE_PIXELS = 224
_SMALL_NET = ("resnet8", "resnet_tiny")
# Approximate memory of the two views of an image in a ResNet-50 at 224 pixels, float32;
# --dry_run measures a step.
_PICTURE_BYTES = 150e6
_MEMORY_SHARE = 0.5
_TARGET = "target.momentum"


class Facts(NamedTuple):
    """Facts about the data set and the machine that the rules use.

    Attributes:
        pictures: number of training images.
        side_pixels: typical shorter side of an image.
        channels: of an image, 1 or 3.
        platform: "cpu", "gpu" or "tpu".
        devices: number of devices.
        memory_bytes: memory of one device; None if it is unknown.
    """

    pictures: int
    side_pixels: int
    channels: int
    platform: str
    devices: int
    memory_bytes: int | None

    def __str__(self) -> str:
        return (
            f"{self.pictures:,} images of about {self.side_pixels:,} pixels, "
            f"{self.devices} x {self.platform}"
        )


class Choice(NamedTuple):
    """A chosen setting and the reason for it."""

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}: {self.reason}"


Values = Mapping[str, Any]
Rule = Callable[[Facts, Values], tuple[Any, str]]


def fit(
    facts: Facts,
    values: Values,
    given: Collection[str],
    rules: Mapping[str, Rule] | None = None,
) -> list[Choice]:
    """Chooses the settings that the rules give, in their order.

    Args:
        facts: of the set and the machine.
        values: of the recipe, by dotted key. Keys that are not there, such as those of
            other methods, are not chosen.
        given: keys that the user has set. They are kept, and later rules take them into
            account.
        rules: for each key (facts, values so far) -> (value, reason); `RULES` if not
            given.
    """
    so_far, choices = dict(values), []
    for key, rule in (RULES if rules is None else rules).items():
        if key in values and key not in given:
            value, reason = rule(facts, so_far)
            so_far[key] = value
            choices.append(Choice(key, value, reason))
    return choices


def facts_of(
    data: Dataset, *, platform: str, devices: int, memory_bytes: int | None
) -> Facts:
    """The facts of a data set and a machine; it reads the headers of some images.

    Raises:
        ConfigError: they are no images.
    """
    machine = (platform, devices, memory_bytes)
    if isinstance(data, RecordDataset):
        return Facts(data.train_count, _typical_side(data), 3, *machine)
    shape = data.train_examples.shape[1:] if isinstance(data, ArrayDataset) else ()
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ConfigError(
            "config.data.source: expected images, [H, W, 1 or 3], to fit the recipe "
            f"to, got {data.name}; name another recipe"
        )
    return Facts(data.train_count, min(shape[:2]), shape[2], *machine)


def fit_recipe(
    config: ConfigDict,
    rules: Mapping[str, Rule],
    *,
    given: Collection[str],
    kept: Values,
) -> tuple[ConfigDict, Dataset, list[str]]:
    """Completes a recipe by its rules for its images and the devices of this machine.

    Args:
        config: the recipe with the user's values; it is not changed.
        rules: of the recipe.
        given: keys or sections that the user has set.
        kept: values of a run that is resumed, by dotted key: it keeps what was chosen
            at its start, whatever the data set and the machine are now.

    Returns:
        The recipe, its set, and lines for people: a choice and its reason each.

    Raises:
        ConfigError: the recipe is not valid, or the set cannot be read.
    """
    data = build_data(experiment_config(config, conflicts=False).data)
    device = jax.devices()[0]
    facts = facts_of(
        data,
        platform=device.platform,
        devices=jax.device_count(),
        memory_bytes=device_bytes(device),
    )
    if not method_of(config).uses_target:
        rules = {key: rule for key, rule in rules.items() if key != _TARGET}
    values = flatten(config.to_dict())
    named = {key for key in values for one in given if f"{key}.".startswith(f"{one}.")}
    kept = {key: kept[key] for key in rules if key in kept and key not in named}
    kept = {key: value for key, value in kept.items() if key in values}
    choices = fit(facts, values | kept, named | kept.keys(), rules)
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(kept)
    config.update_from_flattened_dict({key: value for key, value, _ in choices})
    said = [
        f"chosen for {facts}; --config.KEY=VALUE sets one, and the others take it into "
        "account:"
    ]
    said = said if choices else []
    if kept:
        said.append(f"as at the start of the existing run: {', '.join(kept)}")
    return config, data, [*said, *map(str, choices)]


def _typical_side(data: RecordDataset) -> int:
    """The median of the shorter sides of some images."""
    count, sides = len(data.train), []
    for row in np.linspace(0, count - 1, min(count, _SAMPLE)).astype(int):
        try:
            sides.append(min(image_size(data.train[row])))
        except UNREADABLE:
            continue  # unreadable images are counted in training
    return int(np.median(sides)) if sides else _LARGE_PIXELS


def _power_of_two(limit: float) -> int:
    """The largest one that is no larger, at least 1."""
    return 2 ** max(int(limit).bit_length() - 1, 0)


def _rows(limit: float, devices: int) -> int:
    """A batch of the same power of two of images on each device, at least 2 in all."""
    return max(devices * _power_of_two(limit / devices), 2)


def _steps(facts: Facts, values: Values) -> int:
    return max(facts.pictures // values["training.batch_size"], 1)


def _views(facts: Facts, values: Values) -> tuple[str, str]:
    if facts.channels == 1:
        return "small_gray", "grey images"
    if facts.side_pixels <= SMALL_PIXELS:
        return "cifar", "small images, which a blur would erase"
    known = {"caco": "caco", "simclr": "simclr"}
    return known.get(values["method.name"], "moco_v2"), "photographs"


def _view_size(facts: Facts, _: Values) -> tuple[int, str]:
    if facts.side_pixels <= SMALL_PIXELS:
        return facts.side_pixels, "the size of the images"
    if facts.platform == "cpu":
        return SMALL_PIXELS, "small views, for a CPU"
    size = min(_LARGE_PIXELS, facts.side_pixels // 32 * 32)
    return size, "the standard size, or that of smaller images"


def _backbone(facts: Facts, _: Values) -> tuple[str, str]:
    if facts.platform == "cpu":
        return "resnet8", "a small network, for a CPU"
    return "resnet50", "a standard network, for an accelerator"


def _width(_: Facts, values: Values) -> tuple[int, str]:
    small = values["encoder.backbone"] in _SMALL_NET
    return (32 if small else 64), f"of {values['encoder.backbone']}"


def _stem(_: Facts, values: Values) -> tuple[str, str]:
    if values["encoder.backbone"] in _SMALL_NET:
        return "strided", "a quarter of the work"
    if values["data.view_size"] <= SMALL_PIXELS:
        return "small", "keeps the resolution of small views"
    return "imagenet", "the usual one"


def _projector(_: Facts, values: Values) -> tuple[tuple[int, ...], str]:
    if values["encoder.backbone"] in _SMALL_NET:
        return (128, 128, 64), "as small as the network"
    return (2048, 2048, 256), "the usual ones"


def _dtype(facts: Facts, _: Values) -> tuple[str, str]:
    if facts.platform == "cpu":
        return "float32", "bfloat16 is slow on CPUs"
    return "bfloat16", "half the memory, and faster"


def _batch_size(facts: Facts, values: Values) -> tuple[int, str]:
    limit, reason = (64, "enough for a CPU")
    if facts.platform != "cpu":
        limit, reason = min(256 * facts.devices, 1024), "the usual one"
    if facts.memory_bytes is not None:
        pixels = (values["data.view_size"] / _LARGE_PIXELS) ** 2
        half = 0.5 if values["encoder.dtype"] == "bfloat16" else 1.0
        room = _MEMORY_SHARE * facts.memory_bytes * facts.devices
        fitting = int(room / (_PICTURE_BYTES * pixels * half))
        if fitting < limit:
            limit, reason = fitting, f"for {facts.memory_bytes / 1e9:,.0f} GB a device"
    share = max(facts.pictures // 4, min(facts.pictures // 2, 8))
    if share < limit:
        limit, reason = share, f"at most a quarter of {facts.pictures:,} images"
    return _rows(limit, facts.devices), reason


def _epochs(facts: Facts, values: Values) -> tuple[int, str]:
    few, many, wanted = (10, 200, 1_000)
    if facts.platform != "cpu":
        few, many, wanted = 100, 800, 20_000
    steps = _steps(facts, values)
    epochs = min(max(-(-wanted // steps), few), many)
    return epochs, f"{epochs * steps:,} steps, {steps:,} an epoch"


def _memory_rows(facts: Facts, values: Values) -> tuple[int, str]:
    limit = min(max(facts.pictures // 4, values["training.batch_size"]), 65_536)
    rows = _rows(limit, facts.devices)
    return rows, f"at most a quarter of {facts.pictures:,} images, or a batch"


def _start_up_epochs(facts: Facts, values: Values) -> tuple[int, str]:
    steps, wanted = _steps(facts, values), 500
    if values["method.bank_size"] >= wanted * values["training.batch_size"]:
        return 0, "until the bank is full"
    most = max(values["training.epochs"] // 4, 1)
    epochs = min(-(-wanted // steps), most)
    return (
        epochs,
        f"{epochs * steps:,} steps, so that the first keys of the bank are meaningful",
    )


def _averaging(steps: int) -> tuple[float, str]:
    """A momentum whose averaging time is short compared with the number of steps."""
    memory = min(max(steps // 50, 20), 100, max(steps // 4, 2))
    return round(1 - 1 / memory, 3), f"an average over {memory} of {steps:,} steps"


def _start_up_momentum(facts: Facts, values: Values) -> tuple[float, str]:
    epochs, steps = values["method.start_up_epochs"], _steps(facts, values)
    to_fill = -(-values["method.bank_size"] // values["training.batch_size"])
    return _averaging(epochs * steps or min(to_fill, steps))


def _target_momentum(facts: Facts, values: Values) -> tuple[float, str]:
    return _averaging(values["training.epochs"] * _steps(facts, values))


def _learning_rate(_: Facts, values: Values) -> tuple[float, str]:
    small = values["encoder.backbone"] in _SMALL_NET
    return (0.12 if small else 0.06), "for 256 images; it is scaled with the batch"


def _warm_up(_: Facts, values: Values) -> tuple[int, str]:
    epochs = values["training.epochs"]
    return min(10, epochs // 10), f"a tenth of {epochs:,} epochs, at most 10"


def _neighbours(facts: Facts, _: Values) -> tuple[int, str]:
    return min(max(facts.pictures // 20, 1), 20), f"of {facts.pictures:,} images"


# The order matters: later rules use the choices of earlier ones.
RULES: dict[str, Rule] = {
    "data.views": _views,
    "data.view_size": _view_size,
    "encoder.backbone": _backbone,
    "encoder.width": _width,
    "encoder.stem": _stem,
    "encoder.projector_widths": _projector,
    "encoder.dtype": _dtype,
    "training.batch_size": _batch_size,
    "training.epochs": _epochs,
    "method.bank_size": _memory_rows,
    "method.queue_size": _memory_rows,
    "method.start_up_epochs": _start_up_epochs,
    "method.start_up_momentum": _start_up_momentum,
    _TARGET: _target_momentum,
    "optimizer.learning_rate": _learning_rate,
    "optimizer.warmup_epochs": _warm_up,
    "bank_optimizer.warmup_epochs": _warm_up,
    "evaluation.knn_neighbours": _neighbours,
}
