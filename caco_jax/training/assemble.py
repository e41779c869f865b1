"""From a configuration to the parts of a run; only here all sections are read."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax.config import (
    EncoderConfig,
    ExperimentConfig,
    OptimizerConfig,
    TrainingConfig,
)
from caco_jax.data.recipe import Recipe
from caco_jax.data.views import evaluation, make_views
from caco_jax.methods.adversarial import adversarial
from caco_jax.methods.method import Encode, Method, Network
from caco_jax.methods.registry import make_method
from caco_jax.nets.encoder import Encoder
from caco_jax.nets.heads import caco_projector, mlp_projector
from caco_jax.nets.norm import BatchNorm
from caco_jax.nets.resnet import BACKBONES
from caco_jax.schema import ConfigError, require
from caco_jax.training import optimizers, schedules
from caco_jax.training.inputs import (
    Images,
    check_streamed,
    check_views,
    load_images,
    train_count,
    view_recipe,
    view_shapes,
)
from caco_jax.training.mesh import make_mesh, on_cpu, place, replicated, state_shardings
from caco_jax.training.microbatches import microbatched
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
    images: Images
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


def assemble(
    config: ExperimentConfig,
    *,
    mesh: Mesh | None = None,
    images: Images | None = None,
) -> Experiment:
    """Loads the data and makes the parts; nothing is compiled or written.

    Args:
        config: the run's configuration.
        mesh: the devices; None: all that there are. Those of a topology that is not
            there do to compile for it.
        images: a set to use instead of the configuration's source. To compile with,
            `jax.ShapeDtypeStruct` as its arrays is enough, or a length as its records.

    Raises:
        ConfigError: the configuration does not fit the data, the devices, or itself.
    """
    if images is None:
        images = load_images(config.data)
    count = train_count(images)
    batch_size = config.training.batch_size
    require(
        batch_size <= count,
        f"config.training.batch_size: want at most {count}, the training images of "
        f"{images.name}, got {batch_size}",
    )
    mesh = make_mesh() if mesh is None else mesh
    sizes = {"training.batch_size": batch_size}
    for field in ("bank_size", "queue_size"):
        if hasattr(config.method, field):
            sizes[f"method.{field}"] = getattr(config.method, field)
    for name, size in sizes.items():
        require(
            size % mesh.size == 0,
            f"config.{name}: want a multiple of the {mesh.size} devices, got {size}",
        )
    per_pass = batch_size // config.training.microbatches
    require(
        per_pass % mesh.size == 0,
        "config.training.microbatches: want parts of the batch that the "
        f"{mesh.size} devices share evenly, got {config.training.microbatches} parts "
        f"of {per_pass} images",
    )
    recipe = view_recipe(config.data)
    check_streamed(config.data.views, recipe, images)
    method = configured_method(config, recipe)
    check_views(config.data.views, method, view_shapes(recipe, images))
    experiment = Experiment(
        config=config,
        images=images,
        recipe=recipe,
        encoder=make_encoder(
            config.encoder, adversarial_branch=config.adversarial.epsilon > 0
        ),
        method=method,
        mesh=mesh,
        keys=Keys.from_seed(config.seed),
        steps_per_epoch=count // batch_size,
    )
    training_optimizer(experiment)  # refuses what does not fit, before anything runs
    return experiment


def configured_method(config: ExperimentConfig, recipe: Recipe) -> Method:
    """The method of a configuration, with its input adversary if there is one."""
    method = make_method(config.method, embedding_dim=config.embedding_dim)
    if config.adversarial.epsilon == 0:
        return method
    values = dataclasses.asdict(config.adversarial)
    return adversarial(method, pixel_std=recipe.std, **values)


def make_encoder(config: EncoderConfig, *, adversarial_branch: bool = False) -> Encoder:
    """The encoder of a configuration.

    Args:
        config: its section.
        adversarial_branch: whether every norm has a twin for adversarial images.
    """
    parts: dict[str, Any] = {
        "norm": functools.partial(
            BatchNorm,
            group_size=config.batchnorm_group,
            adversarial_branch=adversarial_branch,
        ),
        "dtype": jnp.dtype(config.dtype),
    }
    backbone = BACKBONES[config.backbone](
        width=config.width, stem=config.stem, remat=config.remat, **parts
    )
    *hidden, dim = config.projector_widths
    if config.projector == "caco":
        require(
            len(hidden) == 2 and hidden[0] == hidden[1],
            "config.encoder.projector_widths: want (hidden, hidden, dim) for the caco "
            f"projector, got {config.projector_widths}",
        )
        return Encoder(backbone, caco_projector(hidden[0], dim, **parts))
    projector = mlp_projector(*config.projector_widths, dtype=parts["dtype"])
    return Encoder(backbone, projector)


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
    # Shapes alone: to draw views outside of a program compiles each operation alone.
    (shape, *_) = view_shapes(experiment.recipe, experiment.images)
    example = jnp.zeros((2, *shape))
    return init_network(experiment.encoder, experiment.keys.encoder, example)


def _scale(config: OptimizerConfig, batch_size: int) -> float:
    """What the section's learning rates are multiplied by."""
    if not config.scale_with_batch:
        return 1.0
    return schedules.linear_scaled_rate(1.0, batch_size=batch_size)


def _schedule(
    config: OptimizerConfig, training: TrainingConfig, steps_per_epoch: int
) -> optax.Schedule:
    scale = _scale(config, training.batch_size)
    rate = config.learning_rate * scale
    if config.schedule == "steps":
        factors = dict(zip(config.milestones, config.milestone_factors, strict=True))
        return schedules.step_table(rate, factors, steps_per_epoch=steps_per_epoch)
    final = config.final_learning_rate * scale
    return schedules.warmup_cosine(
        rate,
        final if config.schedule == "cosine" else rate,
        warmup_epochs=config.warmup_epochs,
        epochs=training.epochs,
        steps_per_epoch=steps_per_epoch,
    )


def _transformation(
    config: OptimizerConfig, rate: optax.Schedule
) -> optax.GradientTransformation:
    decay, momentum = config.weight_decay, config.momentum
    if config.name == "adam":
        return optimizers.adam(rate, b1=momentum, weight_decay=decay)
    if config.name == "lars":
        return optimizers.lars(
            rate,
            momentum=momentum,
            weight_decay=decay,
            trust_coefficient=config.trust_coefficient,
        )
    return optimizers.sgd(rate, momentum=momentum, weight_decay=decay)


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
            rate = _schedule(section, config.training, per_epoch)
            transformations[name] = _transformation(section, rate)
    return make_optimizer(experiment.method, transformations)


def start_up_optimizer(
    experiment: Experiment, method: Method
) -> optax.GradientTransformation:
    """The start-up's: the encoder at its full first rate, whatever the warm-up."""
    section = experiment.config.optimizer
    # The same tree as with a schedule, so that momentum can be handed over.
    scale = _scale(section, experiment.config.training.batch_size)
    rate = optax.constant_schedule(section.learning_rate * scale)
    return make_optimizer(method, {"encoder": _transformation(section, rate)})


def experiment_encode(experiment: Experiment) -> Encode:
    """How the run's networks encode: whole batches or microbatches."""
    mesh, training = experiment.mesh, experiment.config.training
    gather = None
    if training.shard_encoder:
        gather = functools.partial(
            jax.lax.with_sharding_constraint, shardings=replicated(mesh)
        )
    encode = microbatched(
        make_encode(experiment.encoder, gather=gather).online,
        training.microbatches,
        group_size=experiment.config.encoder.batchnorm_group,
        unroll=on_cpu(mesh),
    )
    return Encode(encode, encode)


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
        encode=experiment_encode(experiment),
        make_views=make_views(experiment.recipe),
        optimizer=training_optimizer(experiment),
        target_momentum=momentum,
        key=experiment.keys.steps,
        shuffle_keys=target.shuffle_keys,
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
        encode=experiment_encode(experiment),
        make_views=make_views(experiment.recipe),
        optimizer=start_up_optimizer(experiment, start_up.method),
        target_momentum=optax.constant_schedule(momentum),
        key=experiment.keys.start_up_steps,
        shuffle_keys=experiment.config.target.shuffle_keys,
    )


def initial_state(experiment: Experiment) -> TrainState:
    """The state at step 0 of training, before any start-up."""
    return create_state(
        experiment.keys.players,
        experiment.method,
        new_network(experiment),
        training_optimizer(experiment),
    )


def experiment_shardings(experiment: Experiment, state: TrainState) -> TrainState:
    """Where each array of a run's state is, see `state_shardings`."""
    return state_shardings(
        state,
        experiment.mesh,
        shard_encoder=experiment.config.training.shard_encoder,
    )


def place_state(experiment: Experiment, state: TrainState) -> TrainState:
    """A state that every process has whole, on the run's devices."""
    return place(state, experiment_shardings(experiment, state))


def evaluation_view(
    recipe: Recipe,
) -> Callable[[Array], Float[Array, "n h w c"]]:
    """uint8 images -> the encoder's input at evaluation: normalised, not augmented."""
    views = make_views(evaluation(mean=recipe.mean, std=recipe.std))
    return lambda images: views(jax.random.key(0), images)[0]
