"""The configuration of a run: its sections and their validation.

A recipe (``configs/*.py``) starts from `default_config` of a method, an ml_collections
ConfigDict, and states its differences. `experiment_config` turns the ConfigDict into
frozen dataclasses and finds every mistake that can be found without data, before
anything is compiled.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from caco_jax.config.encoders import EncoderConfig
from caco_jax.data.value_range import AUTO
from caco_jax.data.views import VIEWS
from caco_jax.methods.method import Method
from caco_jax.methods.registry import METHODS, MethodBuilder
from caco_jax.optim.settings import (
    OptimizerConfig,
    TargetConfig,
    check_optimizers,
    optimizer_key,
)
from caco_jax.runs.settings import EvaluationConfig, TrainingConfig
from caco_jax.schema import (
    COUNT,
    FRACTION,
    NON_NEGATIVE,
    SEED,
    ConfigError,
    Conflicts,
    OneOf,
    build,
    one_line,
    require,
    resolve,
    setting,
    validate,
)

# Section of the encoder's optimiser; those of other players are <player>_optimizer.
_OPTIMIZER = "optimizer"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data set and the views that are made of its images."""

    source: str = setting(
        "digits",
        doc="The data set: digits, tfds:NAME, folder:PATH, wds:PATH, idx:PATH, "
        "cifar10:PATH, cifar100:PATH, fake:HEIGHTxWIDTHxCHANNELS[xCOUNT], or the "
        "import path of a function that returns examples.",
    )
    data_dir: str | None = setting(
        None,
        doc="Directory of prepared data sets; relative paths in data.source start "
        "here.",
    )
    train_split: str | None = setting(
        None,
        doc="Images to train on: a TFDS split such as train[:90%], a sub-folder of "
        "folder:PATH, or shards of wds:PATH. None chooses by the usual names, such as "
        "train.",
    )
    test_split: str | None = setting(
        None,
        doc="Held-out images, which kNN is measured on: a TFDS split, a sub-folder or "
        "shards. None chooses by the usual names, such as test and val, or holds out a "
        "part of the training images.",
    )
    value_range: tuple[float, float] | str | None = setting(
        None,
        doc="Pixel values of images of more than 8 bits that become black and white: "
        "(low, high), or auto to take percentiles of a sample of the images. None uses "
        "the range of the file's type.",
    )
    split_seed: int = setting(
        0,
        allowed=SEED,
        doc="Seed that draws the held-out images where the data set has no test split.",
    )
    views: str = setting(
        "digits",
        allowed=OneOf(VIEWS),
        doc="Augmentation that makes the views: a name, or the import path of a "
        "function, of a tuple of functions, or of a Views object.",
    )
    view: Mapping[str, Any] = setting(
        {},
        doc="Fields of the augmentation. KEY sets a field of all views, 2.KEY sets it "
        "for the second view alone.",
    )
    view_size: int | None = setting(
        None,
        allowed=COUNT,
        doc="Height and width in pixels of the largest view; the other views keep "
        "their proportion to it. None keeps the sizes of the recipe.",
    )
    max_resident_bytes: int = setting(
        2 * 2**30,
        allowed=NON_NEGATIVE,
        doc="Largest size in bytes of the decoded training images that is kept in the "
        "memory of the devices; larger sets are streamed from the disk.",
    )
    workers: int | None = setting(
        None,
        allowed=NON_NEGATIVE,
        doc="Worker processes of each host that read and decode a streamed data set. 0 "
        "uses threads, None uses one process for each core, at most 16.",
    )
    bad_image_share: float = setting(
        0.001,
        allowed=FRACTION,
        doc="Largest share of the images of a streamed data set that may be "
        "unreadable; they are skipped. A few are always allowed.",
    )

    def __post_init__(self) -> None:
        validate(self)
        pair = self.value_range
        require(
            pair in (None, AUTO)
            or (isinstance(pair, tuple) and -math.inf < pair[0] < pair[1] < math.inf),
            f"value_range: expected None, {AUTO} or (low, high), low < high, got "
            f"{pair!r}",
        )


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """CLAE: an adversarial perturbation of the input images, added to any method."""

    epsilon: float = setting(
        0.0,
        allowed=NON_NEGATIVE,
        doc="Size of the perturbation of each normalised pixel. 0 trains without an "
        "input adversary.",
    )
    weight: float = setting(
        1.0,
        allowed=NON_NEGATIVE,
        doc="Weight of the loss on the perturbed images; the loss on the clean images "
        "has weight 1.",
    )
    reencode_clean: bool = setting(
        False,
        doc="Whether clean views are encoded a second time together with the perturbed "
        "ones, as the released code of Plain does.",
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """The configuration of a run.

    Attributes:
        method: settings of a registered method, or the `MethodBuilder` of another one.
        method_name: name in the registry, or import path.
        player_optimizers: optimisers of the players other than the encoder, by name.
    """

    method: MethodBuilder
    method_name: str
    encoder: EncoderConfig = EncoderConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    player_optimizers: Mapping[str, OptimizerConfig] = dataclasses.field(
        default_factory=dict
    )
    target: TargetConfig = TargetConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = setting(
        0,
        allowed=SEED,
        doc="Seed of all random numbers of the run: initial weights, order of the "
        "images, augmentation.",
    )

    def __post_init__(self) -> None:
        validate(self)

    def check(self) -> None:
        """Checks the sections against each other.

        Raises:
            ConfigError: values that are allowed alone do not fit together; all are
                reported.
        """
        with Conflicts() as found:
            with found.noting("config.{}".format):
                check_optimizers(self.optimizers, epochs=self.training.epochs)
            self._check_batch(found)

    def _check_batch(self, found: Conflicts) -> None:
        group, batch_size = self.encoder.batchnorm_group, self.training.batch_size
        parts = self.training.microbatches
        grouped = batch_size % (group or 1) == 0
        found.require(
            grouped,
            "config.encoder.batchnorm_group: expected a divisor of training.batch_size "
            f"({batch_size}), got {group}",
        )
        found.require(
            not grouped or batch_size % (parts * (group or 1)) == 0,
            "config.training.microbatches: expected parts of training.batch_size "
            f"({batch_size}) that hold whole groups of encoder.batchnorm_group "
            f"({group}), got {parts}",
        )
        found.require(
            group is not None or not self.target.shuffle_keys,
            "config.target.shuffle_keys: expected encoder.batchnorm_group set, without "
            "groups the order of the rows changes nothing",
        )

    @property
    def embedding_dim(self) -> int:
        """Width D of the embeddings."""
        return self.encoder.projector_widths[-1]

    @property
    def optimizers(self) -> dict[str, OptimizerConfig]:
        """The section of every player, by its name."""
        return {"encoder": self.optimizer, **self.player_optimizers}

    def values(self) -> dict[str, Any]:
        """The configuration as nested dictionaries of plain values, as it is saved."""
        plain = functools.partial(dataclasses.asdict, dict_factory=_plain)
        sections = {
            field.name: plain(value) if dataclasses.is_dataclass(value) else value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        for name in ("method", "method_name", "player_optimizers"):
            del sections[name]
        settings = plain(self.method.settings)
        others = {
            optimizer_key(name): plain(section)
            for name, section in self.player_optimizers.items()
        }
        return {"method": {"name": self.method_name, **settings}, **sections, **others}


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {
        name: dict(value) if isinstance(value, Mapping) else value
        for name, value in items
    }


def method_entry(name: Any) -> tuple[type, Any]:
    """The settings class of a method and the function that makes the method.

    Args:
        name: name in the registry, or import path of a pair (settings dataclass, make).

    Raises:
        ConfigError: there is no such method.
    """
    require(
        isinstance(name, str) and name in OneOf(METHODS),
        f"config.method.name: expected one of {', '.join(OneOf(METHODS))}, got "
        f"{name!r}",
    )
    entry = resolve(name, METHODS, "config.method.name")
    fits = isinstance(entry, tuple) and len(entry) == 2
    require(
        fits
        and isinstance(entry[0], type)
        and dataclasses.is_dataclass(entry[0])
        and callable(entry[1]),
        f"config.method.name: expected a pair (settings dataclass, make), {name!r} is "
        f"{entry!r}",
    )
    return entry


def _players(name: str, method: MethodBuilder) -> Method:
    """The method for some embedding width, to read its players."""
    try:
        return method(embedding_dim=2)
    # A method by import path is the user's own code, which may raise anything.
    except Exception as error:
        raise ConfigError(
            f"config.method.name: {name} raises {one_line(error)}"
        ) from error


def method_of(config: ConfigDict) -> Method:
    """The method of a recipe with its default settings, to read its players."""
    settings_class, make = method_entry(config.method.name)
    return _players(config.method.name, MethodBuilder(settings_class(), make))


def optimizer_sections(config: ConfigDict) -> list[ConfigDict]:
    """The optimisers' sections of a recipe, the encoder's first."""
    keys = [optimizer_key(player) for player in method_of(config).moves]
    return [config[key] for key in keys if key in config]


def default_config(method: str) -> ConfigDict:
    """All keys with their defaults, as the start of a recipe.

    Args:
        method: a name of the registry, or an import path.

    Raises:
        ConfigError: there is no such method.
    """
    settings_class, make = method_entry(method)
    builder = MethodBuilder(settings_class(), make)
    players = _players(method, builder)
    config = ExperimentConfig(
        method=builder,
        method_name=method,
        player_optimizers={
            name: players.optimizers.get(name, OptimizerConfig())
            for name, move in players.moves.items()
            if name != "encoder" and move != "hold"
        },
    )
    return ConfigDict(config.values(), type_safe=False)


def _section(sections: dict[str, Any], name: str) -> dict[str, Any]:
    """Removes a section from the configuration and returns it."""
    section = sections.pop(name, {})
    require(
        isinstance(section, dict), f"config.{name}: expected a section, got {section!r}"
    )
    return dict(section)


def experiment_config(
    config: ConfigDict | dict[str, Any], *, conflicts: bool = True
) -> ExperimentConfig:
    """The validated configuration of a recipe.

    Args:
        config: a recipe; keys it does not have keep their defaults.
        conflicts: whether to check that values fit together; `build_run` checks this
            too, together with the images and the devices.

    Raises:
        ConfigError: unknown keys, wrong types and impossible values; all are reported.
    """
    sections = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    values = _section(sections, "method")
    name = values.pop("name", None)
    settings_class, make = method_entry(name)
    method = MethodBuilder(settings_class(), make)
    with Conflicts() as found:
        with found.noting():
            method = MethodBuilder(build(settings_class, values, "config.method"), make)
        players = _players(name, method)
        optimizers = _player_optimizers(name, players, sections, found)
        parts = {"method": method, "method_name": name}
        with found.noting():
            made = build(
                ExperimentConfig, {**sections, **parts, "player_optimizers": optimizers}
            )
    if conflicts:
        made.check()
    return made


def _player_optimizers(
    name: str, method: Method, sections: dict[str, Any], conflicts: Conflicts
) -> dict[str, OptimizerConfig]:
    """Removes the optimiser sections of the players other than the encoder.

    A missing section or None takes the method's default. Errors are added to
    `conflicts`.
    """
    found = {}
    for player, move in method.moves.items():
        key = optimizer_key(player)
        if player == "encoder" or move == "hold":
            continue
        default = method.optimizers.get(player, OptimizerConfig())
        if sections.get(key) is None:
            sections.pop(key, None)
            found[player] = default
            continue
        with conflicts.noting():
            changes = _section(sections, key)
            values = {**dataclasses.asdict(default), **changes}
            found[player] = build(OptimizerConfig, values, f"config.{key}")
    for key in [key for key in sections if key.endswith(f"_{_OPTIMIZER}")]:
        player = key.removesuffix(f"_{_OPTIMIZER}")
        conflicts.require(
            sections.pop(key) is None,
            f"config.{key}: {name} has no {player} to optimise; remove the key",
        )
    return found
