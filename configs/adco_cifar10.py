"""AdCo on CIFAR-10 (ours).

Paper:     arXiv:2011.08435 (the method; it has no CIFAR recipe)
Expected:  not measured yet
Cost:      not measured by us; needs accelerators
Command:   caco pretrain --config=adco_cifar10 --workdir=runs/adco_cifar10
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
    config = memory_cifar10("adco")
    config.method.bank_size = 4096
    config.method.symmetric = True
    return with_variant(config, variant, VARIANTS)
