"""The encoder section of a configuration, and the options of a vision transformer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from caco_jax.nets import BACKBONES, RESNETS, VITS
from caco_jax.nets.resnet import STEMS
from caco_jax.schema import (
    BELOW_ONE,
    COUNT,
    OneOf,
    build,
    require,
    setting,
    validate,
)

PROJECTORS = ("caco", "mlp", "alpha_cl")


@dataclasses.dataclass(frozen=True)
class ViTOptions:
    """Options of a vision transformer."""

    patch_size: int = setting(
        16,
        allowed=COUNT,
        doc="Height and width of a patch in pixels; it has to divide the sizes of all "
        "views.",
    )
    pooling: str = setting(
        "token",
        allowed=("token", "mean"),
        doc="How tokens become the features of an image: token takes the class token, "
        "mean averages the tokens of the patches and has no class token.",
    )
    positions: str = setting(
        "learned",
        allowed=("learned", "sincos"),
        doc="Position embedding: learned is trained for the size of the first view and "
        "interpolated to other sizes, sincos is fixed and fits any size.",
    )
    fixed_patches: bool = setting(
        False,
        doc="Whether the patch embedding keeps its random initial weights, as MoCo v3 "
        "recommends.",
    )
    stochastic_depth: float = setting(
        0.0,
        allowed=BELOW_ONE,
        doc="Stochastic depth: share of the images that skip the last block in "
        "training. The share grows linearly from 0 at the first block; the target "
        "encoder skips blocks too.",
    )
    attention: str = setting(
        "xla",
        allowed=("xla", "cudnn"),
        doc="Implementation of attention: xla runs on every device, cudnn is the fused "
        "kernel of NVIDIA GPUs and needs encoder.dtype bfloat16.",
    )
    width: int | None = setting(
        None,
        allowed=COUNT,
        doc="Width of a token. None takes 192, 384 or 768 for the tiny, small or base "
        "model.",
    )
    heads: int | None = setting(
        None,
        allowed=COUNT,
        doc="Number of attention heads; it has to divide the width. None takes 3, 6 or "
        "12 for the tiny, small or base model.",
    )
    depth: int = setting(12, allowed=COUNT, doc="Number of transformer blocks.")

    def __post_init__(self) -> None:
        validate(self)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the constructors in `caco_jax.nets.VITS`."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The encoder: a backbone followed by a projection head."""

    backbone: str = setting(
        "resnet50",
        allowed=OneOf(BACKBONES),
        doc="Backbone network: a name, or the import path of a flax.linen module or of "
        "a function that returns one.",
    )
    width: int = setting(
        64,
        allowed=COUNT,
        doc="Channels of the first stage of a ResNet; a ViT ignores it.",
    )
    stem: str = setting(
        "imagenet",
        allowed=tuple(STEMS),
        doc="First layers of a ResNet: imagenet is a 7x7 convolution of stride 2 and "
        "max-pooling, small is a 3x3 convolution for images up to 64 pixels, strided "
        "is small with stride 2, which is faster on a CPU. A ViT ignores it.",
    )
    projector: str = setting(
        "caco",
        allowed=PROJECTORS,
        doc="Projection head: caco has BatchNorm and no biases, mlp has biases and no "
        "BatchNorm, alpha_cl has biases and BatchNorm without scale and bias.",
    )
    projector_widths: tuple[int, ...] = setting(
        (2048, 2048, 256),
        allowed=COUNT,
        doc="Output widths of the layers of the projection head; the last is the width "
        "of the embedding.",
    )
    norm: str = setting(
        "batch",
        allowed=("batch", "group"),
        doc="Normalisation of a ResNet and of the projection head: batch is BatchNorm, "
        "group is GroupNorm. A ViT always has LayerNorm.",
    )
    batchnorm_group: int | None = setting(
        None,
        allowed=COUNT,
        doc="Number of images that share BatchNorm statistics. None normalises over "
        "the whole batch, across all devices.",
    )
    dtype: str = setting(
        "float32",
        allowed=("float32", "bfloat16"),
        doc="Number format of the encoder's computation; parameters and losses stay "
        "float32.",
    )
    remat: bool = setting(
        False,
        doc="Whether activations within stages or blocks are computed again in the "
        "backward pass, which saves memory and costs time.",
    )
    fold_batchnorm: bool = setting(
        False,
        doc="Whether a ResNet folds BatchNorm into the 1x1 convolution or the pooling "
        "before it. Results are equal up to rounding; accelerators move less "
        "memory in a step.",
    )
    options: Mapping[str, Any] = setting(
        {},
        doc="Options of a ViT, see encoder.options: ViTOptions, or keyword arguments "
        "of a backbone that is given by its import path.",
    )

    def __post_init__(self) -> None:
        validate(self)
        require(
            bool(self.projector_widths),
            "projector_widths: expected at least one, got none",
        )
        require(
            self.norm == "batch" or self.batchnorm_group is None,
            "batchnorm_group: expected None with norm 'group', which has no "
            f"statistics, got {self.batchnorm_group}",
        )
        require(
            not self.fold_batchnorm
            or (self.backbone in RESNETS and self.norm == "batch"),
            "fold_batchnorm: expected False without a ResNet that has BatchNorm, got "
            f"True with {self.backbone} and norm '{self.norm}'",
        )
        if self.backbone in VITS:
            build(ViTOptions, self.options, "options")
        require(
            self.backbone not in RESNETS or not self.options,
            f"options: expected none for {self.backbone}, got {dict(self.options)}",
        )
