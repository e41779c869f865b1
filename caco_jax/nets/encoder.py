"""The encoder that the methods train: a backbone and a projector."""

import flax.linen as nn
from jaxtyping import Array, Float

from caco_jax.nets.functions import mode_arguments, takes_branch
from caco_jax.nets.norm import CLEAN


class Encoder(nn.Module):
    """A backbone followed by a projector, any flax.linen modules.

    Each is told ``train`` and ``branch``, which is that of `BatchNorm`, if it takes
    them.

    Attributes:
        backbone: examples -> features [N, F].
        projector: features -> embeddings [N, D].
    """

    backbone: nn.Module
    projector: nn.Module

    def __call__(
        self, images: Float[Array, "n *example"], *, train: bool, branch: str = CLEAN
    ) -> Float[Array, "n d"]:
        """Embeddings [N, D] of images [N, H, W, C] or what else, not normalised."""
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
        """Whether the backbone takes ``branch``."""
        return takes_branch(self.backbone)


def _call(module: nn.Module, x: Array, train: bool, branch: str) -> Array:
    arguments = mode_arguments(type(module).__call__, train=train)
    if takes_branch(module):
        arguments["branch"] = branch
    return module(x, **arguments)
