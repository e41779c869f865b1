"""CaCo on ImageNet with two large and six small views.

Paper:     arXiv:2203.14370
Expected:  linear 75.7 % (800 epochs, batch 2048), as published
Cost:      not measured by us; needs accelerators
Command:   caco pretrain --config=caco_imagenet_multicrop \
               --workdir=runs/caco_imagenet_multicrop
Variants:  pass_per_view, float32
The released code encodes each view separately, so that BatchNorm statistics are those
of one view: pass_per_view. Here views of one size share a pass, two large and
six small ones: two passes of the online encoder instead of eight.
"""

from ml_collections import ConfigDict

from caco_jax.config.recipe import (
    FAST,
    FLOAT32,
    OURS,
    Variants,
    load_recipe,
    with_variant,
)

VARIANTS: Variants = {"pass_per_view": {"method.pass_per_view": True}, **FLOAT32}
SOURCES = {
    "arXiv:2203.14370, section 4": ("data.source", "training.*"),
    "github.com/maple-research-lab/CaCo, its published command": (
        "data.views",
        "optimizer.*",
        "bank_optimizer.*",
        "pass_per_view/method.pass_per_view",
    ),
    OURS: FAST,
}


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = load_recipe("caco_imagenet")
    config.data.views = "caco_multicrop"
    config.training.batch_size = 2048
    config.training.epochs = 800
    return with_variant(config, variant, VARIANTS)
