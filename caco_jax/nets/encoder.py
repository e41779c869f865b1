"""The encoder that the methods train: a backbone and a projector."""

import flax.linen as nn
from jaxtyping import Array, Float

from caco_jax.nets.norm import CLEAN


class Encoder(nn.Module):
    """A backbone followed by a projector.

    Both are called as ``module(x, *, train, branch)``; `branch` is that of `BatchNorm`.

    Attributes:
        backbone: images -> features.
        projector: features -> embeddings.
    """

    backbone: nn.Module
    projector: nn.Module

    def __call__(
        self, images: Float[Array, "n h w c"], *, train: bool, branch: str = CLEAN
    ) -> Float[Array, "n d"]:
        """Embeddings [N, D] of images [N, H, W, C], not normalised."""
        features = self.features(images, train=train, branch=branch)
        return self.projector(features, train=train, branch=branch)

    def features(
        self,
        images: Float[Array, "n h w c"],
        *,
        train: bool = False,
        branch: str = CLEAN,
    ) -> Float[Array, "n f"]:
        """The backbone's features [N, F], which evaluation uses."""
        return self.backbone(images, train=train, branch=branch)
