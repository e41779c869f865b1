"""Builds the parts of a run from its configuration: data, views, method, encoder."""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax.numpy as jnp

from caco_jax.config.encoders import EncoderConfig, ViTOptions
from caco_jax.config.sections import DataConfig, ExperimentConfig
from caco_jax.data import sources
from caco_jax.data.dataset import ArrayDataset, Dataset, as_dataset
from caco_jax.data.view_kinds import Views, as_views
from caco_jax.data.views import VIEWS
from caco_jax.methods.adversarial import adversarial
from caco_jax.methods.method import Method
from caco_jax.nets import BACKBONES, RESNETS, VITS
from caco_jax.nets.encoder import Encoder
from caco_jax.nets.functions import EncoderFunctions, as_encoder, name_of
from caco_jax.nets.heads import alpha_cl_projector, caco_projector, mlp_projector
from caco_jax.nets.norm import BatchNorm, GroupNorm
from caco_jax.schema import (
    ConfigError,
    accepted,
    build,
    is_import_path,
    one_line,
    require,
    resolve,
)

T = TypeVar("T")

_VIEW = "config.data.view"
# Keys that are no fields of the views: the normalisation of all views.
STATISTICS = ("mean", "std")


def build_data(config: DataConfig) -> Dataset:
    """The data set of a configuration; it is streamed if it does not fit into memory.

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
            value_range=config.value_range,
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
    key = "config.data.source"
    found = resolve(config.source, {}, key)
    if callable(found):
        arguments = accepted(found, {"data_dir": config.data_dir})
        found = _call(f"{key}: {config.source}", found, **arguments)
    try:
        return as_dataset(found, name=config.source, seed=config.split_seed)
    except (ConfigError, ValueError, TypeError) as error:
        reason = str(error).removeprefix("data: ").splitlines()[0]
        raise ConfigError(f"{key}: {config.source}: {reason}") from None


def _call(what: str, function: Callable[..., T], **arguments: Any) -> T:
    """Calls a function of the user; its exception becomes a one-line ConfigError."""
    try:
        return function(**arguments)
    except ConfigError:
        raise
    # The user's own code may raise anything.
    except Exception as error:
        raise ConfigError(f"{what} raises {one_line(error)}") from error


def build_views(config: DataConfig) -> Views:
    """The views of a configuration, with its fields and at the size that it asks for.

    Raises:
        ConfigError: they cannot be imported, have no such field, or it is out of range.
    """
    fields = {str(key): value for key, value in config.view.items()}
    single = {key: value for key, value in fields.items() if key.isdecimal()}
    shared = {key: value for key, value in fields.items() if key not in single}
    statistics = {key: shared.pop(key) for key in STATISTICS if key in shared}
    views = _changed_views(_named_views(config.views, shared), single)
    try:
        views = dataclasses.replace(views, **statistics)
    except ConfigError as error:
        raise error.renamed(lambda line: f"{_VIEW}.{line}") from None
    if config.view_size is not None:
        try:
            views = views.resized(config.view_size)
        except ConfigError as error:
            raise error.renamed(lambda line: f"config.data.view_size: {line}") from None
    return views


def _named_views(name: str, fields: Mapping[str, Any]) -> Views:
    """The views of a name or an import path, with the fields that all views get."""
    key = "config.data.views"
    named = resolve(name, VIEWS, key)
    if name in VIEWS:
        return _views_of_table(name, fields)
    own: Mapping[str, Any] = {}
    if isinstance(named, type) or not callable(named):
        made = named
    elif _takes_a_key(named):
        made = (named, named)
    else:
        own = accepted(named, fields)
        made = _call(f"{key}: {name}", named, **own)
    try:
        views = as_views(made)
    except ConfigError as error:
        reason = str(error).removeprefix("views: ")
        raise ConfigError(f"{key}: {name}: {reason}") from None
    fields = {key: value for key, value in fields.items() if key not in own}
    changed = (_changed_view(view, fields, _VIEW) for view in views.views)
    return dataclasses.replace(views, views=tuple(changed)) if fields else views


def _views_of_table(name: str, arguments: Mapping[str, Any]) -> Views:
    _require_known(arguments, _parameters(VIEWS[name]))
    try:
        return VIEWS[name](**arguments)
    except ConfigError as error:
        raise error.renamed(lambda line: f"{_VIEW}.{line}") from None
    except (
        TypeError,
        ValueError,
        AttributeError,
    ) as error:  # wrong type of an argument
        raise ConfigError(f"{_VIEW}: {name} raises {one_line(error)}") from None


def _takes_a_key(function: Any) -> bool:
    """Whether an object is a view: a function of exactly (key, example)."""
    required = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(required) == 2


def _parameters(function: Any) -> list[str]:
    """Parameters of a function of the table: its own and the fields of its views."""
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
    return list(dict.fromkeys([*own, *fields, *STATISTICS]))


def _require_known(
    changes: Mapping[str, Any], known: list[str], path: str = _VIEW
) -> None:
    for key in changes:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"{path}.{key}: no such key; {hint}")


def _changed_views(views: Views, changes: Mapping[str, Any]) -> Views:
    """The views with changed fields of single views, which are numbered from 1."""
    made = list(views.views)
    for number, fields in changes.items():
        index = int(number) - 1
        require(
            0 <= index < len(made),
            f"{_VIEW}.{number}: expected the number of a view, 1 to {len(made)}",
        )
        made[index] = _changed_view(made[index], fields, f"{_VIEW}.{number}")
    return dataclasses.replace(views, views=tuple(made))


def _changed_view(view: Any, fields: Any, path: str) -> Any:
    require(
        isinstance(fields, Mapping),
        f"{path}: expected fields of a view, got {fields!r}",
    )
    require(
        dataclasses.is_dataclass(view),
        f"{path}: expected no fields for {name_of(view)}, which is no dataclass",
    )
    _require_known(fields, [field.name for field in dataclasses.fields(view)], path)
    try:
        return dataclasses.replace(view, **fields)
    except ConfigError as error:
        raise error.renamed(lambda line: f"{path}.{line}") from None


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
        adversarial_branch: whether every BatchNorm has a twin for adversarial images.

    Raises:
        ConfigError: the backbone cannot be imported or made, or the projector's widths
            do not fit it.
    """
    batch_norm = functools.partial(
        BatchNorm,
        group_size=config.batchnorm_group,
        adversarial_branch=adversarial_branch,
    )
    parts: dict[str, Any] = {
        "norm": GroupNorm if config.norm == "group" else batch_norm,
        "dtype": jnp.dtype(config.dtype),
    }
    backbone = _backbone(config, parts)
    *hidden, dim = config.projector_widths
    if config.projector == "caco":
        require(
            len(hidden) == 2 and hidden[0] == hidden[1],
            "config.encoder.projector_widths: expected (hidden, hidden, dim) for the "
            f"caco projector, got {config.projector_widths}",
        )
        projector = caco_projector(hidden[0], dim, **parts)
    elif config.projector == "alpha_cl":
        projector = alpha_cl_projector(*config.projector_widths, **parts)
    else:
        projector = mlp_projector(*config.projector_widths, dtype=parts["dtype"])
    return as_encoder(Encoder(backbone, projector))._replace(name=config.backbone)


def _backbone(config: EncoderConfig, parts: dict[str, Any]) -> nn.Module:
    found = resolve(config.backbone, BACKBONES, "config.encoder.backbone")
    if config.backbone in RESNETS:
        return found(
            width=config.width,
            stem=config.stem,
            fold_batchnorm=config.fold_batchnorm,
            remat=config.remat,
            **parts,
        )
    if config.backbone in VITS:
        options = build(ViTOptions, config.options).arguments()
        return found(remat=config.remat, dtype=parts["dtype"], **options)
    what = f"config.encoder.backbone: {config.backbone}"
    if callable(found) and not isinstance(found, nn.Module):
        # A backbone may ignore arguments for its parts, but has to accept all options.
        arguments = {**accepted(found, parts), **config.options}
        found = _call(what, found, **arguments)
    require(
        isinstance(found, nn.Module),
        f"config.encoder.backbone: expected {config.backbone} to be or to return a "
        f"flax.linen module, got {type(found).__name__}",
    )
    return found
