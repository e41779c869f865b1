"""MoCo on ImageNet with a ViT-S: a queue of keys, symmetric loss.

Paper:     none; the numbers are those of MoCo v3 (arXiv:2104.02057), the game is MoCo
           v2's: a queue, no head behind the projector, batches of 1024; so it is no
           MoCo v3
Expected:  no figure: ours, and not run by us
Cost:      not measured by us; needs accelerators
Command:   caco pretrain --config=moco_vit_imagenet --workdir=runs/moco_vit_imagenet
Variants:  base, float32
"""

from ml_collections import ConfigDict

from caco_jax.config.recipe import VIT_SOURCES, VIT_VARIANTS, vit_imagenet, with_variant

VARIANTS = VIT_VARIANTS
SOURCES = VIT_SOURCES


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = vit_imagenet("moco")
    config.method.symmetric = True
    return with_variant(config, variant, VARIANTS)
