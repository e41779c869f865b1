"""SimCLR on CIFAR-10.

Paper:     arXiv:2002.05709, appendix B.9
Expected:  not measured yet; peers after 1000 epochs, online linear:
           90.7 % on CIFAR-10, 65.8 % on CIFAR-100
Cost:      not measured by us; needs accelerators
Command:   caco pretrain --config=simclr_cifar10 --workdir=runs/simclr_cifar10
Variants:  cifar100, clae
"""

from ml_collections import ConfigDict

from caco_jax.config.recipe import (
    CIFAR100,
    CLAE,
    OURS,
    Variants,
    cifar10,
    with_variant,
)

VARIANTS: Variants = {**CIFAR100, **CLAE}
SOURCES = {
    "arXiv:2002.05709, appendix B.9": (
        "data.source",
        "data.views",
        "encoder.backbone",
        "encoder.stem",
        "method.temperature",
        "optimizer.*",
        "training.*",
    ),
    OURS: (
        "encoder.projector",
        "encoder.projector_widths",
        "evaluation.knn_neighbours",
        "clae/*",
    ),
}


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = cifar10("simclr")
    config.method.temperature = 0.5
    config.encoder.projector_widths = (512, 128)
    config.optimizer.name = "lars"
    config.optimizer.learning_rate = 1.0
    config.optimizer.scale_with_batch = True
    config.optimizer.warmup_epochs = 10
    config.training.batch_size = 512
    config.training.epochs = 1000
    return with_variant(config, variant, VARIANTS)
