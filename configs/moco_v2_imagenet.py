"""MoCo v2 on ImageNet, the baseline with a queue of keys.

Paper:     arXiv:2003.04297
Expected:  linear 67.5 ± 0.1 % (200 epochs), 71.1 % (800), as published
Cost:      53 h on 8 V100 for 200 epochs with the official code
Command:   caco pretrain --config=moco_v2_imagenet --workdir=runs/moco_v2_imagenet
Variants:  epochs800, float32
"""

from ml_collections import ConfigDict

from caco_jax.config.recipe import (
    FAST,
    FLOAT32,
    OURS,
    Variants,
    moco_imagenet,
    with_variant,
)

VARIANTS: Variants = {"epochs800": {"training.epochs": 800}, **FLOAT32}
SOURCES = {
    "arXiv:2003.04297, sections 2 and 3": (
        "data.source",
        "data.views",
        "encoder.projector",
        "encoder.projector_widths",
        "training.epochs",
    ),
    "github.com/facebookresearch/moco, main_moco.py": (
        "encoder.batchnorm_group",
        "optimizer.scale_with_batch",
        "target.*",
    ),
    OURS: FAST,
}


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = moco_imagenet("moco")
    config.encoder.projector_widths = (2048, 128)
    config.optimizer.scale_with_batch = True
    return with_variant(config, variant, VARIANTS)
