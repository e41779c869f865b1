"""The encoder's section of a configuration, and what a ViT takes beside it."""

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
    """What a vision transformer is beside its name."""

    patch_size: int = setting(
        16, allowed=COUNT, doc="pixels of a side; divides the sizes of all views"
    )
    pooling: str = setting(
        "token",
        allowed=("token", "mean"),
        doc="token: the class token is the feature; mean: that of the patches, and "
        "there is no class token",
    )
    positions: str = setting(
        "learned",
        allowed=("learned", "sincos"),
        doc="learned: of the first view's size, interpolated for others; sincos: "
        "fixed, of any size",
    )
    fixed_patches: bool = setting(
        False, doc="the patches' layer stays as it is drawn, as MoCo v3 advises"
    )
    stochastic_depth: float = setting(
        0.0,
        allowed=BELOW_ONE,
        doc="share of rows that skip the last block; from 0 at the first; in the "
        "target encoder too",
    )
    attention: str = setting(
        "xla",
        allowed=("xla", "cudnn"),
        doc="cudnn: a GPU's fused kernel, with dtype bfloat16",
    )
    width: int | None = setting(
        None, allowed=COUNT, doc="of a token; None: 192, 384, 768 by the name"
    )
    heads: int | None = setting(
        None, allowed=COUNT, doc="divide the width; None: 3, 6, 12 by the name"
    )
    depth: int = setting(12, allowed=COUNT, doc="number of blocks")

    def __post_init__(self) -> None:
        validate(self)

    def arguments(self) -> dict[str, Any]:
        """What the makers of `caco_jax.nets.VITS` are told."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The backbone and the projector behind it."""

    backbone: str = setting(
        "resnet50",
        allowed=OneOf(BACKBONES),
        doc="the network: a name, or the import path of a flax.linen module or of "
        "what makes one",
    )
    width: int = setting(
        64, allowed=COUNT, doc="channels of a ResNet's first stage; a ViT has none"
    )
    stem: str = setting(
        "imagenet",
        allowed=tuple(STEMS),
        doc="of a ResNet: small for images up to 64 px, strided for small ones on a "
        "CPU; a ViT has none",
    )
    projector: str = setting(
        "caco",
        allowed=PROJECTORS,
        doc="caco: BatchNorm, no biases; mlp: the reverse; alpha_cl: biases, and "
        "BatchNorm without scale and bias",
    )
    projector_widths: tuple[int, ...] = setting(
        (2048, 2048, 256), allowed=COUNT, doc="outputs of each layer; last: embedding"
    )
    norm: str = setting(
        "batch",
        allowed=("batch", "group"),
        doc="of a ResNet and of the projector; group: GroupNorm, of each image alone; "
        "a ViT has LayerNorm",
    )
    batchnorm_group: int | None = setting(
        None, allowed=COUNT, doc="rows that share statistics; None: the whole batch"
    )
    dtype: str = setting(
        "float32",
        allowed=("float32", "bfloat16"),
        doc="of the computation; parameters and losses are float32",
    )
    remat: bool = setting(
        False,
        doc="keep activations between stages or blocks only, compute the rest again",
    )
    options: Mapping[str, Any] = setting(
        {},
        doc="of a ViT, see `encoder.options: ViTOptions`; or further arguments of a "
        "backbone that is given by import path",
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
        if self.backbone in VITS:
            build(ViTOptions, self.options, "options")
        require(
            self.backbone not in RESNETS or not self.options,
            f"options: expected none for {self.backbone}, got {dict(self.options)}",
        )
