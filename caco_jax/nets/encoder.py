"""The encoder: a backbone followed by a projector."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax.nets.functions import (
    EncoderFunctions,
    Network,
    as_encoder,
    mode_arguments,
    name_of,
    takes_branch,
)
from caco_jax.nets.heads import mlp_projector
from caco_jax.nets.norm import CLEAN
from caco_jax.schema import require


class Encoder(nn.Module):
    """A backbone followed by a projector, any flax.linen modules.

    Each gets ``train`` and ``branch`` (see `BatchNorm`), if it accepts them.

    Attributes:
        backbone: examples -> features [N, F].
        projector: features -> embeddings [N, D].
    """

    backbone: nn.Module
    projector: nn.Module

    def __call__(
        self, images: Float[Array, "n *example"], *, train: bool, branch: str = CLEAN
    ) -> Float[Array, "n d"]:
        """Embeddings [N, D] of examples, such as images [N, H, W, C], not unit."""
        features = self.features(images, train=train, branch=branch)
        return _call(self.projector, features, train, branch)

    def features(
        self,
        images: Float[Array, "n *example"],
        *,
        train: bool = False,
        branch: str = CLEAN,
    ) -> Float[Array, "n f"]:
        """The backbone's features [N, F], which evaluation uses."""
        return _call(self.backbone, images, train, branch)

    def knows_branches(self) -> bool:
        """Whether the backbone accepts ``branch``."""
        return takes_branch(self.backbone)


def _call(module: nn.Module, x: Array, train: bool, branch: str) -> Array:
    arguments = mode_arguments(type(module).__call__, train=train)
    if takes_branch(module):
        arguments["branch"] = branch
    return module(x, **arguments)


def with_projector(
    encoder: Any, projector: nn.Module | tuple[int, ...] | None
) -> EncoderFunctions:
    """An encoder, in any form, with its projector, as pure functions."""
    if projector is None:
        return as_encoder(encoder)
    if not isinstance(projector, nn.Module):
        require(
            isinstance(projector, tuple | list) and len(projector) > 0,
            "projector: expected a flax.linen module or the widths of layers, such as "
            f"(128, 64), got {projector!r}",
        )
        projector = mlp_projector(*projector)
    if not isinstance(encoder, nn.Module):
        return _behind(as_encoder(encoder), as_encoder(projector))
    whole = as_encoder(Encoder(encoder, projector))
    return whole._replace(name=name_of(type(encoder)))


def _behind(
    backbone: EncoderFunctions, projector: EncoderFunctions
) -> EncoderFunctions:
    """A backbone of pure functions with a projector, as `Encoder` is for modules."""

    def joined(first: Network, second: Network) -> Network:
        pairs = zip(first, second, strict=True)
        return Network(*({"backbone": one, "projector": two} for one, two in pairs))

    def part(network: Network, name: str) -> Network:
        return Network(network.params[name], network.stats[name])

    def init(key: PRNGKeyArray, examples: Array) -> Network:
        keys = jax.random.split(key)
        first = backbone.init(keys[0], examples)
        rows, _ = backbone.embed(first, examples, train=True)
        return joined(first, projector.init(keys[1], rows))

    def embed(
        network: Network, examples: Array, *, train: bool, branch: str = CLEAN
    ) -> tuple[Float[Array, "n d"], Network]:
        rows, first = backbone.embed(
            part(network, "backbone"), examples, train=train, branch=branch
        )
        rows, second = projector.embed(
            part(network, "projector"), rows, train=train, branch=branch
        )
        return rows, joined(first, second)

    def features(
        network: Network, examples: Array, *, train: bool = False
    ) -> tuple[Float[Array, "n f"], Network]:
        rows, first = backbone.embed(part(network, "backbone"), examples, train=train)
        return rows, joined(first, part(network, "projector"))

    return backbone._replace(init=init, embed=embed, features=features, module=None)
