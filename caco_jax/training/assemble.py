"""From a configuration to the parts of a run; only here all sections are read."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax.config import EncoderConfig, ExperimentConfig, OptimizerConfig
from caco_jax.data.sources import ImageSet, load
from caco_jax.data.views import VIEWS, Recipe, evaluation, make_views
from caco_jax.methods.method import Method, Network
from caco_jax.methods.registry import make_method
from caco_jax.nets.encoder import Encoder
from caco_jax.nets.heads import caco_projector, mlp_projector
from caco_jax.nets.resnet import BACKBONES
from caco_jax.schema import ConfigError, require
from caco_jax.training import optimizers, schedules
from caco_jax.training.mesh import make_mesh
from caco_jax.training.state import TrainState, create_state
from caco_jax.training.step import (
    StepFn,
    make_encode,
    make_optimizer,
    make_train_step,
)


class Keys(NamedTuple):
    """Independent streams of random numbers, all from the run's seed."""

    encoder: PRNGKeyArray
    players: PRNGKeyArray
    order: PRNGKeyArray
    steps: PRNGKeyArray
    start_up_order: PRNGKeyArray
    start_up_steps: PRNGKeyArray

    @classmethod
    def from_seed(cls, seed: int) -> "Keys":
        """The streams of a seed."""
        return cls(*jax.random.split(jax.random.key(seed), len(cls._fields)))


class Experiment(NamedTuple):
    """All parts of a run, nothing of its progress."""

    config: ExperimentConfig
    images: ImageSet
    recipe: Recipe
    encoder: Encoder
    method: Method
    mesh: Mesh
    keys: Keys
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, start-up excluded."""
        return self.config.training.epochs * self.steps_per_epoch


def assemble(config: ExperimentConfig) -> Experiment:
    """Loads the data and makes the parts; nothing is compiled or written.

    Args:
        config: the run's configuration.

    Raises:
        ConfigError: the configuration does not fit the data or the devices.
    """
    try:
        images = load(
            config.data.source,
            data_dir=config.data.data_dir,
            seed=config.data.split_seed,
        )
    except ValueError as error:
        raise ConfigError(f"config.{error}") from None
    count = len(images.train_images)
    batch_size = config.training.batch_size
    require(
        batch_size <= count,
        f"config.training.batch_size: want at most {count}, the training images of "
        f"{images.name}, got {batch_size}",
    )
    mesh = make_mesh()
    method = make_method(config.method, embedding_dim=config.embedding_dim)
    sizes = {"training.batch_size": batch_size}
    if "bank" in method.moves:
        sizes["method.bank_size"] = config.method.bank_size
    for name, size in sizes.items():
        require(
            size % mesh.size == 0,
            f"config.{name}: want a multiple of the {mesh.size} devices, got {size}",
        )
    return Experiment(
        config=config,
        images=images,
        recipe=VIEWS[config.data.views](),
        encoder=make_encoder(config.encoder),
        method=method,
        mesh=mesh,
        keys=Keys.from_seed(config.seed),
        steps_per_epoch=count // batch_size,
    )


def make_encoder(config: EncoderConfig) -> Encoder:
    """The encoder of a configuration."""
    backbone = BACKBONES[config.backbone](width=config.width, stem=config.stem)
    *hidden, dim = config.projector_widths
    if config.projector == "caco":
        require(
            len(hidden) == 2 and hidden[0] == hidden[1],
            "config.encoder.projector_widths: want (hidden, hidden, dim) for the caco "
            f"projector, got {config.projector_widths}",
        )
        return Encoder(backbone, caco_projector(hidden[0], dim))
    return Encoder(backbone, mlp_projector(*config.projector_widths))


def init_network(
    encoder: nn.Module, key: PRNGKeyArray, example: Float[Array, "n h w c"]
) -> Network:
    """A freshly drawn encoder.

    Args:
        encoder: the module.
        key: of the parameters.
        example: images of the training size; the values do not matter.
    """
    init = jax.jit(functools.partial(encoder.init, train=True))
    variables = init(key, example)
    return Network(variables["params"], variables.get("batch_stats", {}))


def new_network(experiment: Experiment) -> Network:
    """The encoder as it is before training."""
    pixels = jnp.asarray(experiment.images.train_images[:2])
    (example, *_) = make_views(experiment.recipe)(jax.random.key(0), pixels)
    return init_network(experiment.encoder, experiment.keys.encoder, example)


def _schedule(
    config: OptimizerConfig, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    return schedules.warmup_cosine(
        config.learning_rate,
        config.final_learning_rate,
        warmup_epochs=config.warmup_epochs,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
    )


def _transformation(
    config: OptimizerConfig, rate: optax.Schedule
) -> optax.GradientTransformation:
    make = {"sgd": optimizers.sgd, "lars": optimizers.lars}[config.name]
    return make(rate, momentum=config.momentum, weight_decay=config.weight_decay)


def training_optimizer(experiment: Experiment) -> optax.GradientTransformation:
    """All players' optimisers with their schedules."""
    config, per_epoch = experiment.config, experiment.steps_per_epoch
    sections = {"encoder": config.optimizer, "bank": config.bank_optimizer}
    transformations = {}
    for name, move in experiment.method.moves.items():
        section = sections[name]
        if section is None:
            raise ConfigError(
                f"config.bank_optimizer: {experiment.method.name} needs it"
            )
        if move != "hold":
            rate = _schedule(section, config.training.epochs, per_epoch)
            transformations[name] = _transformation(section, rate)
    return make_optimizer(experiment.method, transformations)


def start_up_optimizer(
    experiment: Experiment, method: Method
) -> optax.GradientTransformation:
    """The start-up's: the encoder at its full first rate, whatever the warm-up."""
    section = experiment.config.optimizer
    # The same tree as with a schedule, so that momentum can be handed over.
    rate = optax.constant_schedule(section.learning_rate)
    return make_optimizer(method, {"encoder": _transformation(section, rate)})


def training_step(experiment: Experiment) -> StepFn:
    """The run's train step."""
    target = experiment.config.target
    momentum: Callable[[Any], Any] = optax.constant_schedule(target.momentum)
    if target.schedule == "cosine":
        momentum = schedules.cosine_momentum(
            target.momentum,
            epochs=experiment.config.training.epochs,
            steps_per_epoch=experiment.steps_per_epoch,
        )
    return make_train_step(
        experiment.method,
        encode=make_encode(experiment.encoder),
        make_views=make_views(experiment.recipe),
        optimizer=training_optimizer(experiment),
        target_momentum=momentum,
        key=experiment.keys.steps,
    )


def start_up_step(experiment: Experiment) -> StepFn:
    """The step of the phase before training; the method must have one."""
    start_up = experiment.method.start_up
    assert start_up is not None
    momentum = start_up.target_momentum
    if momentum is None:
        momentum = experiment.config.target.momentum
    return make_train_step(
        start_up.method,
        encode=make_encode(experiment.encoder),
        make_views=make_views(experiment.recipe),
        optimizer=start_up_optimizer(experiment, start_up.method),
        target_momentum=optax.constant_schedule(momentum),
        key=experiment.keys.start_up_steps,
    )


def initial_state(experiment: Experiment) -> TrainState:
    """The state at step 0 of training, before any start-up."""
    return create_state(
        experiment.keys.players,
        experiment.method,
        new_network(experiment),
        training_optimizer(experiment),
    )


def evaluation_view(
    recipe: Recipe,
) -> Callable[[Array], Float[Array, "n h w c"]]:
    """uint8 images -> the encoder's input at evaluation: normalised, not augmented."""
    views = make_views(evaluation(mean=recipe.mean, std=recipe.std))
    return lambda images: views(jax.random.key(0), images)[0]
