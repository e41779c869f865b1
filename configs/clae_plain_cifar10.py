"""CLAE with Plain on CIFAR-10: an adversarial perturbation of view 1.

Paper:     arXiv:2010.12050
Expected:  the accuracy tables are not at hand: not measured yet
Cost:      not measured by us; needs accelerators
Command:   caco pretrain --config=clae_plain_cifar10 --workdir=runs/clae_plain_cifar10
Variants:  cifar100, tiny_imagenet
"""

from ml_collections import ConfigDict

from caco_jax.config.recipe import (
    CIFAR100,
    TINY_IMAGENET_CONSTANT,
    Variants,
    clae_instance_cifar10,
    with_variant,
)

VARIANTS: Variants = {**CIFAR100, **TINY_IMAGENET_CONSTANT}
SOURCES = {
    "arXiv:2010.12050, section 4": ("data.source", "adversarial.epsilon"),
    "github.com/chihhuiho/CLAE, Plain/main.py": (
        "data.view.*",
        "encoder.*",
        "optimizer.*",
        "training.*",
        "evaluation.*",
        "adversarial.reencode_clean",
        "data.views",
    ),
    "github.com/chihhuiho/CLAE, Plain/main_imagenet.py": ("tiny_imagenet/*",),
}


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = clae_instance_cifar10("plain")
    # Only the released code of Plain encodes the clean view again.
    config.adversarial.reencode_clean = True
    return with_variant(config, variant, VARIANTS)
