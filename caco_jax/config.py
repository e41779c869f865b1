"""The configuration of a run: its sections, and how a recipe file becomes one.

A recipe (``configs/*.py``) starts from `default_config` of a method, an ml_collections
ConfigDict, and states its differences. `experiment_config` turns the ConfigDict into
frozen dataclasses, and everything that can be known to be wrong is found there, before
anything is compiled.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from caco_jax.data.views import VIEWS
from caco_jax.methods.registry import METHODS
from caco_jax.nets.resnet import BACKBONES
from caco_jax.schema import (
    BELOW_ONE,
    COUNT,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    SEED,
    Range,
    build,
    require,
    setting,
    validate,
)

PROJECTORS = ("caco", "mlp")
OPTIMIZERS = ("sgd", "lars", "adam")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The backbone and the projector behind it."""

    backbone: str = setting("resnet50", allowed=tuple(BACKBONES), doc="the network")
    width: int = setting(64, allowed=COUNT, doc="channels of the first stage")
    stem: str = setting(
        "imagenet",
        allowed=("imagenet", "small", "strided"),
        doc="small for images up to 64 px, strided for small ones on a CPU",
    )
    projector: str = setting(
        "caco", allowed=PROJECTORS, doc="caco: BatchNorm, no biases; mlp: the reverse"
    )
    projector_widths: tuple[int, ...] = setting(
        (2048, 2048, 256), allowed=COUNT, doc="outputs of each layer; last: embedding"
    )
    batchnorm_group: int | None = setting(
        None, allowed=COUNT, doc="rows that share statistics; None: the whole batch"
    )
    dtype: str = setting(
        "float32",
        allowed=("float32", "bfloat16"),
        doc="of the computation; parameters and losses are float32",
    )
    remat: bool = setting(
        False, doc="keep activations between stages only, compute the rest once more"
    )

    def __post_init__(self) -> None:
        validate(self)
        require(
            bool(self.projector_widths), "projector_widths: want at least one, got none"
        )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images come from and which views are made of them."""

    source: str = setting(
        "digits",
        doc="digits, tfds:NAME, folder:PATH or fake:HEIGHTxWIDTHxCHANNELS[xCOUNT]",
    )
    data_dir: str | None = setting(
        None, doc="where prepared data sets lie, and folders if relative"
    )
    train_split: str | None = setting(
        None, doc="of tfds, as TFDS writes it; of folder, a sub-folder; None: the usual"
    )
    test_split: str | None = setting(None, doc="likewise")
    split_seed: int = setting(0, allowed=SEED, doc="draws the held-out part")
    views: str = setting("digits", allowed=tuple(VIEWS), doc="the augmentation recipe")
    view_size: int | None = setting(
        None,
        allowed=COUNT,
        doc="pixels of the largest view, the others shrink along; None: the recipe's",
    )
    max_resident_bytes: int = setting(
        2 * 2**30,
        allowed=NON_NEGATIVE,
        doc="training images decoded beyond this are streamed, not kept on the devices",
    )
    workers: int | None = setting(
        None,
        allowed=NON_NEGATIVE,
        doc="processes of each host that read a streamed set; 0: threads; None: one a "
        "core, at most 16",
    )
    bad_image_share: float = setting(
        0.001,
        allowed=FRACTION,
        doc="of a streamed set that may be unreadable and is skipped; a few always",
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """One player's optimiser and its learning-rate schedule."""

    name: str = setting(
        "sgd", allowed=OPTIMIZERS, doc="sgd: heavy ball; lars: CaCo's; adam: PyTorch's"
    )
    learning_rate: float = setting(0.03, allowed=POSITIVE, doc="after the warm-up")
    scale_with_batch: bool = setting(
        False, doc="the learning rates are for a batch of 256 and grow with the batch"
    )
    schedule: str = setting(
        "cosine",
        allowed=("cosine", "constant", "steps"),
        doc="after the warm-up; steps: by milestones and milestone_factors",
    )
    final_learning_rate: float = setting(
        0.0, allowed=NON_NEGATIVE, doc="cosine: approached at the end"
    )
    milestones: tuple[int, ...] = setting(
        (), allowed=COUNT, doc="steps: epochs from which the factors hold"
    )
    milestone_factors: tuple[float, ...] = setting(
        (), allowed=NON_NEGATIVE, doc="steps: of the learning rate; not cumulative"
    )
    warmup_epochs: int = setting(0, allowed=NON_NEGATIVE, doc="of linear growth")
    momentum: float = setting(
        0.9, allowed=BELOW_ONE, doc="sgd, lars: heavy ball's; adam: first moment's"
    )
    weight_decay: float = setting(
        1e-4, allowed=NON_NEGATIVE, doc="coupled: added to the gradient"
    )
    trust_coefficient: float = setting(0.001, allowed=POSITIVE, doc="of lars")

    def __post_init__(self) -> None:
        validate(self)
        require(
            len(self.milestones) == len(self.milestone_factors),
            f"milestone_factors: want one for each of milestones {self.milestones}, "
            f"got {self.milestone_factors}",
        )
        rising = sorted(set(self.milestones)) == list(self.milestones)
        require(rising, f"milestones: want rising epochs, got {self.milestones}")
        require(
            not self.milestones or self.schedule == "steps",
            f"milestones: want none with schedule {self.schedule!r}, "
            f"got {self.milestones}",
        )
        require(
            self.schedule != "steps" or self.warmup_epochs == 0,
            f"warmup_epochs: want 0 with schedule 'steps', got {self.warmup_epochs}",
        )


@dataclasses.dataclass(frozen=True)
class TargetConfig:
    """The target encoder, a moving average of the online one."""

    momentum: float = setting(0.99, allowed=FRACTION, doc="at the first step")
    schedule: str = setting(
        "cosine", allowed=("cosine", "constant"), doc="cosine: the momentum grows to 1"
    )
    shuffle_keys: bool = setting(
        False, doc="rows in a random order, for encoder.batchnorm_group"
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """CLAE: an input adversary that joins the method."""

    epsilon: float = setting(
        0.0, allowed=NON_NEGATIVE, doc="move of each normalised pixel; 0: no adversary"
    )
    weight: float = setting(1.0, allowed=NON_NEGATIVE, doc="of the payoff under attack")
    reencode_clean: bool = setting(
        False, doc="encode clean views twice, as Plain's released code does"
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, how much at a time, and what is kept."""

    batch_size: int = setting(256, allowed=Range(low=2), doc="images a step")
    epochs: int = setting(200, allowed=COUNT, doc="passes over the training images")
    steps_per_dispatch: int | None = setting(
        None,
        allowed=COUNT,
        doc="steps run without a return to Python; None: 16, on a CPU 1",
    )
    microbatches: int = setting(
        1,
        allowed=COUNT,
        doc="parts of the batch that are encoded one after the other, contrasted once",
    )
    shard_encoder: bool = setting(
        False,
        doc="spread the encoders' parameters and optimiser state over the devices",
    )
    checkpoint_every_epochs: int = setting(10, allowed=COUNT, doc="epochs")
    keep_checkpoints: int = setting(
        2, allowed=COUNT, doc="newest ones kept, beside the best by kNN"
    )
    save_attempts: int = setting(
        3,
        allowed=COUNT,
        doc="failed saves in a row that end the run; each is tried again an epoch on",
    )
    skip_nonfinite: int = setting(
        0,
        allowed=NON_NEGATIVE,
        doc="steps of a run that may be NaN or infinite and are undone; 0: the first "
        "one ends the run; the others hold the state twice",
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The kNN monitor during pretraining and at its end."""

    knn_every_epochs: int = setting(10, allowed=COUNT, doc="epochs")
    knn_train_images: int = setting(
        50_000,
        allowed=COUNT,
        doc="training images to find neighbours among, at most; spread over the set",
    )
    knn_neighbours: int = setting(20, allowed=COUNT, doc="k")
    knn_temperature: float = setting(
        0.2, allowed=POSITIVE, doc="a vote weighs exp(cosine / temperature)"
    )
    online_linear: bool = setting(
        False,
        doc="with kNN also a linear head and the features' rank, as online_linear and "
        "online_effective_rank; no gradient of it reaches the encoder",
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """A whole run."""

    method: Any
    encoder: EncoderConfig = EncoderConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    bank_optimizer: OptimizerConfig | None = None
    target: TargetConfig = TargetConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = setting(0, allowed=SEED, doc="of every random draw of the run")

    def __post_init__(self) -> None:
        validate(self)
        rows = [("optimizer", self.optimizer), ("bank_optimizer", self.bank_optimizer)]
        for name, player in rows:
            if player is not None:
                require(
                    player.warmup_epochs <= self.training.epochs,
                    f"{name}.warmup_epochs: want at most training.epochs "
                    f"({self.training.epochs}), got {player.warmup_epochs}",
                )
        group, batch_size = self.encoder.batchnorm_group, self.training.batch_size
        require(
            group is None or batch_size % group == 0,
            f"encoder.batchnorm_group: want a divisor of training.batch_size "
            f"({batch_size}), got {group}",
        )
        parts = self.training.microbatches
        require(
            batch_size % (parts * (group or 1)) == 0,
            "training.microbatches: want parts of training.batch_size "
            f"({batch_size}) that hold whole groups of encoder.batchnorm_group "
            f"({group}), got {parts}",
        )
        require(
            group is not None or not self.target.shuffle_keys,
            "target.shuffle_keys: want encoder.batchnorm_group set, without groups the "
            "order of the rows changes nothing",
        )

    @property
    def embedding_dim(self) -> int:
        """Width D of the embeddings."""
        return self.encoder.projector_widths[-1]


def _known_method(name: Any) -> str:
    known = ", ".join(METHODS)
    require(
        isinstance(name, str) and name in METHODS,
        f"config.method.name: want one of {known}, got {name!r}",
    )
    return name


def default_config(method: str) -> ConfigDict:
    """Every key with its default, for a recipe to change.

    Args:
        method: a name of the registry.

    Raises:
        ConfigError: there is no such method.
    """
    config_class, _ = METHODS[_known_method(method)]
    sections = dataclasses.asdict(ExperimentConfig(method=config_class()))
    sections["method"] = {"name": method, **sections["method"]}
    if "bank_size" in sections["method"]:
        bank = OptimizerConfig(
            learning_rate=3.0, final_learning_rate=3.0, weight_decay=0.0
        )
        sections["bank_optimizer"] = dataclasses.asdict(bank)
    else:
        del sections["bank_optimizer"]
    return ConfigDict(sections)


def _section(sections: dict[str, Any], name: str) -> dict[str, Any]:
    """A section taken out of the configuration."""
    section = sections.pop(name, {})
    require(
        isinstance(section, dict), f"config.{name}: want a section, got {section!r}"
    )
    return dict(section)


def experiment_config(config: ConfigDict | dict[str, Any]) -> ExperimentConfig:
    """The validated configuration of a recipe.

    Args:
        config: a recipe; keys it does not have keep their defaults.

    Raises:
        ConfigError: an unknown key, a wrong type or an impossible value, named.
    """
    sections = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    method = _section(sections, "method")
    name = _known_method(method.pop("name", None))
    method_config: Any = build(METHODS[name][0], method, "config.method")
    bank = None
    if sections.get("bank_optimizer") is not None:
        require(
            "bank_size" in default_config(name).method,
            f"config.bank_optimizer: {name} has no bank to optimise; remove the key",
        )
        values = _section(sections, "bank_optimizer")
        bank = build(OptimizerConfig, values, "config.bank_optimizer")
    return build(
        ExperimentConfig, {**sections, "method": method_config, "bank_optimizer": bank}
    )


def flatten(values: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(values, dict):
        return {path: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{path}.{key}" if path else key)
    return flat
