"""Networks, as flax.linen modules."""

from caco_jax.nets.encoder import Encoder
from caco_jax.nets.functions import EncoderFunctions, Network, as_encoder
from caco_jax.nets.heads import (
    Projector,
    alpha_cl_projector,
    caco_projector,
    mlp_projector,
)
from caco_jax.nets.norm import ADVERSARIAL, CLEAN, BatchNorm, GroupNorm
from caco_jax.nets.resnet import (
    RESNETS,
    ResNet,
    check_images,
    resnet8,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnet_tiny,
)
from caco_jax.nets.vit import (
    VITS,
    ViT,
    sincos_positions,
    vit_base,
    vit_small,
    vit_tiny,
)

# By name in a configuration.
BACKBONES = {**RESNETS, **VITS}

__all__ = [
    "ADVERSARIAL",
    "BACKBONES",
    "CLEAN",
    "RESNETS",
    "VITS",
    "BatchNorm",
    "Encoder",
    "EncoderFunctions",
    "GroupNorm",
    "Network",
    "Projector",
    "ResNet",
    "ViT",
    "alpha_cl_projector",
    "as_encoder",
    "caco_projector",
    "check_images",
    "mlp_projector",
    "resnet8",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet_tiny",
    "sincos_positions",
    "vit_base",
    "vit_small",
    "vit_tiny",
]
