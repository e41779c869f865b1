"""Builds a run from a configuration: names and import paths become objects."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from caco_jax.config.parts import build_data, build_encoder, build_method, build_views
from caco_jax.config.sections import (
    ExperimentConfig,
    experiment_config,
)
from caco_jax.data.dataset import Dataset
from caco_jax.data.value_range import AUTO
from caco_jax.data.view_kinds import PlainView, Views, without_key
from caco_jax.data.views import make_evaluation_view
from caco_jax.nets.encoder import with_projector
from caco_jax.nets.functions import Network
from caco_jax.runs.checkpoints import Checkpoints, in_tree_of
from caco_jax.runs.checks import check_sizes
from caco_jax.runs.describe import describe
from caco_jax.runs.distributed import all_or_none
from caco_jax.runs.pretraining import (
    Description,
    Pretraining,
)
from caco_jax.runs.run import Embedder, Run, read_run, require_checkpoints
from caco_jax.runs.workdir import BUILT_OF, OBJECTS, Workdir
from caco_jax.schema import (
    ConfigError,
    Conflicts,
    UserError,
    require,
)
from caco_jax.training.sharding import make_mesh

# Argument of `Pretraining` -> its key in a configuration.
_KEYS = {
    "batch_size": "training.batch_size",
    "data": "data.source",
    "encoder": "encoder.backbone",
    "microbatches": "training.microbatches",
    "views": "data.views",
}


def build_run(
    config: ExperimentConfig,
    *,
    mesh: Mesh | None = None,
    data: Dataset | None = None,
) -> Pretraining:
    """Loads the data and makes the parts of a run; nothing is compiled or written.

    Args:
        config: the run's configuration.
        mesh: the devices; None: all of this machine. Devices of an abstract TPU
            topology are enough to compile for it.
        data: a data set to use instead of the configuration's source. For compilation
            its arrays may be `jax.ShapeDtypeStruct`, or its records a length.

    Raises:
        ConfigError: the configuration does not fit the data, the devices, or itself.
    """
    with Conflicts() as found:
        with found.noting():
            config.check()
        if found.messages:  # conflicts of parts and groups have been reported
            encoder = dataclasses.replace(config.encoder, batchnorm_group=None)
            training = dataclasses.replace(config.training, microbatches=1)
            config = dataclasses.replace(config, encoder=encoder, training=training)
        with found.noting(in_config):
            run = _join(config, mesh, data)
    return run


def _join(
    config: ExperimentConfig, mesh: Mesh | None, data: Dataset | None
) -> Pretraining:
    """Builds the parts of a run and the run."""
    parts: dict[str, Any] = {}
    with Conflicts() as found:
        with found.noting():
            parts["views"] = build_views(config.data)
            parts["method"] = build_method(config, parts["views"])
        with found.noting():
            parts["encoder"] = build_encoder(
                config.encoder, adversarial_branch=config.adversarial.epsilon > 0
            )
        with found.noting():
            parts["data"] = build_data(config.data) if data is None else data
            if found.messages:  # the following checks need no complete run
                devices = (make_mesh() if mesh is None else mesh).size
                check_sizes(config.training, parts["data"], devices)
    if (
        config.data.value_range == AUTO
    ):  # saved with the values found, so that evaluation uses the same
        value_range = getattr(parts["data"], "value_range", None)
        section = dataclasses.replace(config.data, value_range=value_range)
        config = dataclasses.replace(config, data=section)
    return Pretraining(
        **parts,
        optimizers=config.optimizers,
        seed=config.seed,
        target=config.target,
        evaluation=config.evaluation,
        batchnorm_group=config.encoder.batchnorm_group,
        mesh=mesh,
        description=Description(config.values(), complete_values),
        **dataclasses.asdict(config.training),
    )


def pretrain(
    config: ExperimentConfig,
    workdir: str | os.PathLike,
    data: Dataset | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Trains the run of a configuration, see `caco_jax.runs.fit.fit`.

    Args:
        config: the run; if one of many processes cannot build it, all of them stop.
        workdir: its directory.
        data: see `build_run`.
        **how: as of `fit`.
    """
    return all_or_none(lambda: build_run(config, data=data)).fit(workdir, **how)


def in_config(message: str) -> str:
    """Rewrites a message about an argument of `Pretraining` to name its key."""
    key, colon, rest = message.partition(":")
    if key.startswith("config."):
        return message
    return f"config.{_KEYS.get(key, key)}{colon}{rest}"


def complete_values(values: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration, completed by the defaults of keys that are newer."""
    try:
        return experiment_config(values).values()
    except ConfigError:
        return values  # it then differs from every valid configuration


def load_run(workdir: str | os.PathLike, *, data: Dataset | None = None) -> Run:
    """Reads a run's configuration and its newest checkpoint.

    Args:
        workdir: the run's directory.
        data: see `build_run`.

    Raises:
        UserError: there is no run, it was built of objects, or it saved nothing yet.
    """
    pretraining = saved_pretraining(Workdir(workdir), data=data)
    require_checkpoints(Workdir(workdir))
    return read_run(pretraining, workdir)


def load(
    workdir: str | os.PathLike,
    *,
    encoder: Any = None,
    projector: Any = None,
    evaluation_view: Callable[[Array], Array] | None = None,
) -> Run | Embedder:
    """Loads a trained encoder: ``load("runs/mine").embed(examples)``.

    Args:
        workdir: the run's directory.
        encoder: the encoder that the run was built with in Python; not needed for a run
            of a configuration.
        projector: the projector that the run was built with in Python.
        evaluation_view: the evaluation view that the run was built with in Python.

    Raises:
        UserError: there is no such run, it saved nothing yet, or it was trained with
            another encoder.
    """
    files = Workdir(workdir)
    values = files.read_config()
    if values.get(BUILT_OF) != OBJECTS:
        require(
            encoder is None,
            f"encoder: expected none, {files.path} is the run of a configuration, "
            f"which names its own; got {type(encoder).__name__}",
        )
        return load_run(workdir)
    saved = values["encoder"]
    require(
        encoder is not None,
        f"encoder: {files.path} was built in Python with {saved['name']}; pass it: "
        "load(workdir, encoder=...)",
    )
    functions = with_projector(encoder, projector)
    require(
        describe(functions.module) == saved["module"],
        f"encoder: {files.path} was trained with {saved['module'] or saved['name']}, "
        f"got {describe(functions.module) or functions.name}",
    )
    require_checkpoints(files)
    with Checkpoints(files) as checkpoints:
        state = checkpoints.restore_arrays()
    shape, dtype = saved["view"]
    like = jax.eval_shape(
        functions.init, jax.random.key(0), jax.ShapeDtypeStruct((2, *shape), dtype)
    )
    try:
        network = Network(
            in_tree_of(like.params, state["players"]["encoder"]),
            in_tree_of(like.stats, state["stats"]),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"encoder: expected the {functions.name} that {files.path} was trained "
            f"with, got another, in which the array {error} differs; pass the same "
            "encoder as in training"
        ) from error
    view = PlainView() if evaluation_view is None else without_key(evaluation_view)
    trained = values["views"]
    require(
        describe(view) == trained["evaluation"],
        f"evaluation_view: expected {trained['evaluation']}, as in training, got "
        f"{describe(view)}",
    )
    mean, std = tuple(trained["mean"]), tuple(trained["std"])
    preprocess = make_evaluation_view(Views((view,), mean, std, evaluation=view))
    return Embedder(functions, network, preprocess)


def saved_pretraining(files: Workdir, **parts: Any) -> Pretraining:
    """The parts of the run in a directory.

    Args:
        files: the directory.
        **parts: as of `build_run`.

    Raises:
        UserError: as `saved_config`.
    """
    return build_run(saved_config(files), **parts)


def saved_config(files: Workdir) -> ExperimentConfig:
    """The configuration of the run in a directory.

    Raises:
        UserError: there is no run, or it was built of objects, not of a configuration.
    """
    values = files.read_config()
    if values.get(BUILT_OF) == OBJECTS:
        raise UserError(
            f"--workdir: expected a run of a configuration, got {files.path}, which "
            f"was built in Python ({values['encoder']['name']}); evaluate it there: "
            f"Pretraining(...).load({str(files.path)!r})"
        )
    return experiment_config(values)
