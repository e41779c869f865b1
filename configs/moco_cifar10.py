"""MoCo v2 on CIFAR-10.

Paper:     arXiv:2003.04297 (the method; it has no CIFAR recipe)
Expected:  not measured yet; peers after 1000 epochs, online linear:
           92.9 % on CIFAR-10, 69.9 % on CIFAR-100
Cost:      not measured by us; needs accelerators
Command:   caco pretrain --config=moco_cifar10 --workdir=runs/moco_cifar10
Variants:  cifar100, clae
"""

from ml_collections import ConfigDict

from caco_jax.config.recipe import (
    CIFAR100,
    CLAE,
    OURS,
    Variants,
    memory_cifar10,
    with_variant,
)

VARIANTS: Variants = {**CIFAR100, **CLAE}
SOURCES = {
    "arXiv:2002.05709, appendix B.9": (
        "data.source",
        "data.views",
        "encoder.backbone",
        "encoder.stem",
    ),
    OURS: (
        "encoder.projector",
        "encoder.projector_widths",
        "evaluation.knn_neighbours",
        "method.*",
        "optimizer.*",
        "target.*",
        "training.*",
        "clae/*",
    ),
}


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = memory_cifar10("moco")
    config.method.queue_size = 4096
    config.method.temperature = 0.1
    config.method.symmetric = True
    return with_variant(config, variant, VARIANTS)
