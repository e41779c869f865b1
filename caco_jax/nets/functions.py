"""Encoders as pure functions, the only form in which the library applies a network.

A flax module of any origin, or two functions (init, apply), is converted to an
`EncoderFunctions` once. Training, evaluation and analysis use only that.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax.nets.norm import CLEAN
from caco_jax.schema import ConfigError, one_line

PyTree = Any
# Names of the train-mode argument in modules, and whether True means training.
_TRAIN_ARGUMENTS = {"train": True, "training": True, "deterministic": False}
_STATS = "batch_stats"


class Network(NamedTuple):
    """The parameters of an encoder and its BatchNorm statistics."""

    params: PyTree
    stats: PyTree


class _Init(Protocol):
    def __call__(self, key: PRNGKeyArray, examples: Array) -> Network:
        """A network with random initial parameters for such a batch of examples."""


class _Embed(Protocol):
    def __call__(
        self, network: Network, examples: Array, *, train: bool, branch: str = CLEAN
    ) -> tuple[Float[Array, "n d"], Network]:
        """Embeddings [N, D], not normalised, and the network with new statistics."""


class _Features(Protocol):
    def __call__(
        self, network: Network, examples: Array, *, train: bool = False
    ) -> tuple[Float[Array, "n f"], Network]:
        """Features [N, F], and the network with new statistics."""


class EncoderFunctions(NamedTuple):
    """An encoder as pure functions.

    Attributes:
        name: name in messages and in the description of a run.
        init: (key, examples) -> `Network`.
        embed: (network, examples, train=..., branch=...) -> embeddings [N, D] and the
            network with its new statistics; not normalised.
        features: (network, examples, train=False) -> features [N, F] for evaluation,
            and the network, whose statistics are updated in train mode.
        has_twin: whether it has the BatchNorm branch of adversarial images.
        module: the flax module that it was made from, or None.
    """

    name: str
    init: _Init
    embed: _Embed
    features: _Features
    has_twin: bool = False
    module: nn.Module | None = None


def as_encoder(encoder: Any) -> EncoderFunctions:
    """Converts any form of an encoder to pure functions.

    Args:
        encoder: `EncoderFunctions`; a flax.linen module whose call gives embeddings
            [N, D] and which may take ``train`` (or ``training``, ``deterministic``)
            and ``branch``, have BatchNorm, and have a method ``features``; or two
            functions ``init(key, examples) -> params`` and
            ``apply(params, examples) -> embeddings``.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(encoder, EncoderFunctions):
        return encoder
    if isinstance(encoder, nn.Module):
        return from_module(encoder)
    if isinstance(encoder, tuple) and len(encoder) == 2 and all(map(callable, encoder)):
        return from_functions(*encoder)
    raise ConfigError(
        "encoder: expected a flax.linen module, a pair of functions (init, apply) or "
        f"EncoderFunctions, got {type(encoder).__name__}; for an nnx or equinox module "
        "pass (init, apply)"
    )


def from_functions(
    init: Callable[[PRNGKeyArray, Array], PyTree],
    apply: Callable[[PyTree, Array], Float[Array, "n d"]],
) -> EncoderFunctions:
    """Makes an encoder without statistics from two functions; features are its output.

    Args:
        init: (key, examples) -> parameters, any tree of arrays.
        apply: (parameters, examples) -> embeddings [N, D].
    """

    def embed(
        network: Network, examples: Array, *, train: bool = False, branch: str = CLEAN
    ) -> tuple[Float[Array, "n d"], Network]:
        del train, branch
        return apply(network.params, examples), network

    return EncoderFunctions(
        name=name_of(apply),
        init=lambda key, examples: Network(init(key, examples), {}),
        embed=embed,
        features=embed,
    )


def from_module(module: nn.Module) -> EncoderFunctions:
    """Makes an encoder from a flax.linen module, see `as_encoder`.

    Features come from the module's method ``features`` if it has one, otherwise from
    its output.
    """
    has_features = callable(getattr(module, "features", None))
    told_branch = takes_branch(module)

    def init(key: PRNGKeyArray, examples: Array) -> Network:
        call = mode_arguments(type(module).__call__, train=True)
        variables = dict(module.init(key, examples, **call))
        params, stats = variables.pop("params", {}), variables.pop(_STATS, {})
        if variables:
            raise ConfigError(
                f"encoder: expected the collections params and {_STATS} alone, "
                f"{type(module).__name__} has {', '.join(sorted(variables))} too; wrap "
                "it in EncoderFunctions"
            )
        return Network(params, stats)

    def apply(
        network: Network, examples: Array, call: dict[str, Any], *, train: bool
    ) -> tuple[Array, Network]:
        variables = {"params": network.params, _STATS: network.stats}
        if not train:
            rows: Any = module.apply(variables, examples, **call)
            return rows, network
        found: Any = module.apply(variables, examples, mutable=[_STATS], **call)
        rows, updated = found
        return rows, Network(network.params, updated.get(_STATS, {}))

    def embed(
        network: Network, examples: Array, *, train: bool, branch: str = CLEAN
    ) -> tuple[Float[Array, "n d"], Network]:
        call = mode_arguments(type(module).__call__, train=train)
        if told_branch:
            call["branch"] = branch
        return apply(network, examples, call, train=train)

    def features(
        network: Network, examples: Array, *, train: bool = False
    ) -> tuple[Float[Array, "n f"], Network]:
        if not has_features:
            return embed(network, examples, train=train)
        call = mode_arguments(module.features, train=train)
        return apply(network, examples, {**call, "method": "features"}, train=train)

    return EncoderFunctions(
        name=name_of(type(module)),
        init=init,
        embed=embed,
        features=features,
        has_twin=getattr(module, "knows_branches", lambda: told_branch)(),
        module=module,
    )


def mode_arguments(function: Callable[..., Any], *, train: bool) -> dict[str, Any]:
    """The keyword argument for train mode, under the name that a function uses."""
    parameters = inspect.signature(function).parameters
    return {
        name: train is means_train
        for name, means_train in _TRAIN_ARGUMENTS.items()
        if name in parameters
    }


def takes_branch(module: nn.Module) -> bool:
    """Whether a module accepts the BatchNorm branch."""
    return "branch" in inspect.signature(type(module).__call__).parameters


def name_of(thing: Any) -> str:
    """The name of a class or function, or of the class of any other object.

    Without its module, because the module of a script has another name when imported.
    """
    return getattr(thing, "__qualname__", type(thing).__qualname__)


def embedding_dim(
    encoder: EncoderFunctions,
    views: Sequence[jax.ShapeDtypeStruct],
    *,
    batch_size: int = 2,
) -> int:
    """The width D of an encoder's embeddings, from shapes alone.

    Args:
        encoder: the encoder.
        views: shape and dtype of a batch of each view; the first makes the parameters.
        batch_size: views in a batch, which groups of BatchNorm have to divide.

    Raises:
        ConfigError: the encoder fails on such views in train mode, or its outputs are
            not [N, D] of one width.
    """
    batches = {(view.shape[1:], view.dtype): view for view in views}
    examples = [
        jax.ShapeDtypeStruct((batch_size, *shape), dtype) for shape, dtype in batches
    ]

    def embed(key: PRNGKeyArray, *examples: Array) -> list[Array]:
        network = encoder.init(key, examples[0])
        return [encoder.embed(network, one, train=True)[0] for one in examples]

    try:
        found = jax.eval_shape(embed, jax.random.key(0), *examples)
    except ConfigError:
        raise
    # Flax and JAX raise many kinds of errors for shapes that do not fit.
    except Exception as error:
        said = ", ".join(f"{shape} ({dtype})" for shape, dtype in batches)
        raise ConfigError(
            f"encoder: expected a network for views of shape {said}, {encoder.name} "
            f"raises {one_line(error)}"
        ) from error
    shapes = {getattr(rows, "shape", type(rows).__name__) for rows in found}
    (shape, *others) = shapes
    if others or len(shape) != 2 or shape[0] != batch_size:
        raise ConfigError(
            f"encoder: expected embeddings [N, D], {encoder.name} gives "
            f"{', '.join(map(str, shapes))} for {batch_size} views"
        )
    return int(shape[1])
