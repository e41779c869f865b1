"""From a configuration to a run: names and import paths become objects."""

import dataclasses
import difflib
import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from caco_jax.config.sections import (
    DataConfig,
    EncoderConfig,
    ExperimentConfig,
    experiment_config,
)
from caco_jax.data import sources
from caco_jax.data.dataset import ArrayDataset, Dataset, as_dataset
from caco_jax.data.view_kinds import PlainView, Views, as_views, without_key
from caco_jax.data.views import VIEWS, make_evaluation_view
from caco_jax.methods.adversarial import adversarial
from caco_jax.methods.method import Method
from caco_jax.nets.encoder import Encoder, with_projector
from caco_jax.nets.functions import EncoderFunctions, Network, as_encoder
from caco_jax.nets.heads import alpha_cl_projector, caco_projector, mlp_projector
from caco_jax.nets.norm import BatchNorm
from caco_jax.nets.resnet import BACKBONES
from caco_jax.runs.checkpoints import Checkpoints
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
    UserError,
    accepted,
    is_import_path,
    require,
    resolve,
)

# What an argument of `Pretraining` is called in a configuration.
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
        mesh: the devices; None: all that there are. Those of a topology that is not
            there do to compile for it.
        data: a set to use instead of the configuration's source. To compile with,
            `jax.ShapeDtypeStruct` as its arrays is enough, or a length as its records.

    Raises:
        ConfigError: the configuration does not fit the data, the devices, or itself.
    """
    views = build_views(config.data)
    try:
        return Pretraining(
            method=build_method(config, views),
            encoder=build_encoder(
                config.encoder, adversarial_branch=config.adversarial.epsilon > 0
            ),
            views=views,
            data=build_data(config.data) if data is None else data,
            optimizers=config.optimizers,
            seed=config.seed,
            target=config.target,
            evaluation=config.evaluation,
            batchnorm_group=config.encoder.batchnorm_group,
            mesh=mesh,
            description=Description(config.values(), complete_values),
            **dataclasses.asdict(config.training),
        )
    except ConfigError as error:
        raise ConfigError(in_config(str(error))) from None


def pretrain(
    config: ExperimentConfig, workdir: str | os.PathLike, **how: Any
) -> dict[str, Any]:
    """Trains the run of a configuration, see `caco_jax.runs.fit.fit`.

    Args:
        config: the run; of many processes all build it, or none goes on.
        workdir: its directory.
        **how: as of `fit`.
    """
    return all_or_none(lambda: build_run(config)).fit(workdir, **how)


def in_config(message: str) -> str:
    """A message about an argument of `Pretraining`, about the configuration's key."""
    key, colon, rest = message.partition(":")
    if key.startswith("config."):
        return message
    return f"config.{_KEYS.get(key, key)}{colon}{rest}"


def complete_values(values: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration with the defaults of keys that came since."""
    try:
        return experiment_config(values).values()
    except ConfigError:
        return values  # its keys then differ from every valid configuration's


def load_run(workdir: str | os.PathLike) -> Run:
    """Reads a run's configuration and its newest checkpoint.

    Args:
        workdir: the run's directory.

    Raises:
        UserError: there is no run, it was built of objects, or it saved nothing yet.
    """
    pretraining = saved_pretraining(Workdir(workdir))
    require_checkpoints(Workdir(workdir))
    return read_run(pretraining, workdir)


def load(
    workdir: str | os.PathLike,
    *,
    encoder: Any = None,
    projector: Any = None,
    evaluation_view: Callable[[Array], Array] | None = None,
) -> Run | Embedder:
    """A trained encoder, to embed with: ``load("runs/mine").embed(examples)``.

    Args:
        workdir: the run's directory.
        encoder: of a run that was built of objects, what it was built of; a run of a
            configuration makes it anew.
        projector: likewise.
        evaluation_view: likewise.

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
    network = Network(state["players"]["encoder"], state["stats"])
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
    """The parts of the run of a directory.

    Args:
        files: the directory.
        **parts: as of `build_run`.

    Raises:
        UserError: as `saved_config`.
    """
    return build_run(saved_config(files), **parts)


def saved_config(files: Workdir) -> ExperimentConfig:
    """The configuration of the run of a directory.

    Raises:
        UserError: there is no run, or it was built of objects, not of a configuration.
    """
    values = files.read_config()
    if values.get(BUILT_OF) == OBJECTS:
        raise UserError(
            f"--workdir: {files.path} is a run that was built in Python "
            f"({values['encoder']['name']}); evaluate it there: "
            f"Pretraining(...).load({str(files.path)!r})"
        )
    return experiment_config(values)


def build_data(config: DataConfig) -> Dataset:
    """The set of a configuration; what does not fit into memory is streamed.

    Raises:
        ConfigError: there is no such source, or it cannot be read.
    """
    if is_import_path(config.source) and not _is_source(config.source):
        return _imported_data(config)
    try:
        dataset = sources.load(
            config.source,
            data_dir=config.data_dir,
            seed=config.split_seed,
            train_split=config.train_split,
            test_split=config.test_split,
            max_resident_bytes=config.max_resident_bytes,
        )
    except ValueError as error:
        raise ConfigError(f"config.{error}") from None
    if isinstance(dataset, ArrayDataset):
        if dataset.train_examples.nbytes <= config.max_resident_bytes:
            return dataset
        dataset = dataset.as_records()
    return dataclasses.replace(
        dataset, bad_share=config.bad_image_share, workers=config.workers
    )


def _is_source(source: str) -> bool:
    return source.partition(":")[0] in sources.SOURCES


def _imported_data(config: DataConfig) -> Dataset:
    found = resolve(config.source, {}, "config.data.source")
    if callable(found):
        found = found(**accepted(found, {"data_dir": config.data_dir}))
    try:
        return as_dataset(found, name=config.source, seed=config.split_seed)
    except (ConfigError, ValueError, TypeError) as error:
        raise ConfigError(f"config.data.source: {config.source}: {error}") from None


def build_views(config: DataConfig) -> Views:
    """The views of a configuration, with its fields and at the size that it asks for.

    Raises:
        ConfigError: they cannot be imported, have no such field, or it is out of range.
    """
    named = resolve(config.views, VIEWS, "config.data.views")
    single = {key: value for key, value in config.view.items() if key.isdecimal()}
    shared = {key: value for key, value in config.view.items() if key not in single}
    try:
        views = _named_views(config.views, named, shared)
        views = _changed_views(views, single)
    except ConfigError as error:
        raise ConfigError(f"config.data.view.{error}") from None
    if config.view_size is not None:
        try:
            views = views.resized(config.view_size)
        except ConfigError as error:
            raise ConfigError(f"config.data.view_size: {error}") from None
    return views


def _named_views(name: str, named: Any, shared: Mapping[str, Any]) -> Views:
    if isinstance(named, Views | tuple | list):
        views = as_views(named)
        every = {str(number): shared for number in range(1, len(views.views) + 1)}
        return _changed_views(views, every if shared else {})
    if name in VIEWS:
        known = _parameters(named)
        _require_known(shared, known)
        return named(**shared)
    makes_views = not _takes_a_key(named)
    if makes_views:
        return as_views(named(**shared))
    require(not shared, f"{next(iter(shared), '')}: {name} is one view, without fields")
    return as_views((named, named))


def _takes_a_key(function: Any) -> bool:
    """Whether it is a view itself: a function of exactly (key, example)."""
    required = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(required) == 2


def _parameters(function: Any) -> list[str]:
    """What a function of the table takes: its own arguments, and the views' fields."""
    own = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    views = function().views
    fields = [
        field.name
        for view in views
        if dataclasses.is_dataclass(view)
        for field in dataclasses.fields(view)
    ]
    return list(dict.fromkeys([*own, *fields]))


def _require_known(changes: Mapping[str, Any], known: list[str]) -> None:
    for key in changes:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"{key}: no such key; {hint}")


def _changed_views(views: Views, changes: Mapping[str, Any]) -> Views:
    """The views with fields of single ones replaced, which are numbered from 1."""
    made = list(views.views)
    for number, fields in changes.items():
        index = int(number) - 1
        require(
            0 <= index < len(made),
            f"{number}: want the number of a view, 1 to {len(made)}",
        )
        view: Any = made[index]
        require(
            dataclasses.is_dataclass(view) and isinstance(fields, Mapping),
            f"{number}: want fields of a view, {view!r} has none",
        )
        try:
            _require_known(fields, [field.name for field in dataclasses.fields(view)])
            made[index] = dataclasses.replace(view, **fields)
        except ConfigError as error:
            raise ConfigError(f"{number}.{error}") from None
    return dataclasses.replace(views, views=tuple(made))


def build_method(config: ExperimentConfig, views: Views) -> Method:
    """The method of a configuration, with its input adversary if there is one."""
    method = config.method(config.embedding_dim)
    if config.adversarial.epsilon == 0:
        return method
    values = dataclasses.asdict(config.adversarial)
    return adversarial(method, pixel_std=views.std, **values)


def build_encoder(
    config: EncoderConfig, *, adversarial_branch: bool = False
) -> EncoderFunctions:
    """The encoder of a configuration.

    Args:
        config: its section.
        adversarial_branch: whether every norm has a twin for adversarial images.

    Raises:
        ConfigError: the backbone cannot be imported or made, or the projector's widths
            do not fit it.
    """
    parts: dict[str, Any] = {
        "norm": functools.partial(
            BatchNorm,
            group_size=config.batchnorm_group,
            adversarial_branch=adversarial_branch,
        ),
        "dtype": jnp.dtype(config.dtype),
    }
    backbone = _backbone(config, parts)
    *hidden, dim = config.projector_widths
    if config.projector == "caco":
        require(
            len(hidden) == 2 and hidden[0] == hidden[1],
            "config.encoder.projector_widths: want (hidden, hidden, dim) for the caco "
            f"projector, got {config.projector_widths}",
        )
        projector = caco_projector(hidden[0], dim, **parts)
    elif config.projector == "alpha_cl":
        projector = alpha_cl_projector(*config.projector_widths, **parts)
    else:
        projector = mlp_projector(*config.projector_widths, dtype=parts["dtype"])
    return as_encoder(Encoder(backbone, projector))._replace(name=config.backbone)


def _backbone(config: EncoderConfig, parts: dict[str, Any]) -> nn.Module:
    found = resolve(config.backbone, BACKBONES, "config.encoder.backbone")
    arguments = {
        "width": config.width,
        "stem": config.stem,
        "remat": config.remat,
        **parts,
    }
    if config.backbone in BACKBONES:
        require(
            not config.options,
            "config.encoder.options: want none for a backbone of the library, got "
            f"{dict(config.options)}",
        )
        return found(**arguments)
    if not isinstance(found, nn.Module):
        try:
            found = found(**accepted(found, {**parts, **config.options}))
        # It is the user's own code, which may fail in any way.
        except Exception as error:
            raise ConfigError(
                f"config.encoder.backbone: {config.backbone} raises "
                f"{type(error).__name__}: {error}"
            ) from error
    require(
        isinstance(found, nn.Module),
        f"config.encoder.backbone: expected {config.backbone} to be or to return a "
        f"flax.linen module, got {type(found).__name__}",
    )
    return found
