"""CaCo on ImageNet with a ViT-S: a cooperative and adversarial bank.

Paper:     none; the game is that of arXiv:2203.14370, the network and its optimiser
           are those of MoCo v3 (arXiv:2104.02057)
Expected:  no figure: ours, and not run by us
Cost:      not measured by us; needs accelerators
Command:   caco pretrain --config=caco_vit_imagenet --workdir=runs/caco_vit_imagenet
Variants:  base, float32
"""

from ml_collections import ConfigDict

from caco_jax.config.recipe import VIT_SOURCES, VIT_VARIANTS, vit_imagenet, with_variant

VARIANTS = VIT_VARIANTS
SOURCES = VIT_SOURCES


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = vit_imagenet("caco")
    config.bank_optimizer.warmup_epochs = 10
    return with_variant(config, variant, VARIANTS)
