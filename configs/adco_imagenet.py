"""AdCo on ImageNet: 65,536 learned hard negatives.

Paper:     arXiv:2011.08435
Expected:  linear 68.6 % (200 epochs), symmetric 70.6 %, multicrop 73.2 %,
           k8192 68.4 %; 44.4 % after 10 epochs, as published
Cost:      not measured by us; needs accelerators
Command:   caco pretrain --config=adco_imagenet --workdir=runs/adco_imagenet
Variants:  symmetric, multicrop, k8192, epochs800, float32
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

VARIANTS: Variants = {
    "symmetric": {"method.symmetric": True},
    "multicrop": {"data.views": "adco_multicrop"},
    "k8192": {
        "method.bank_size": 8192,
        "method.temperature": 0.14,
        "method.bank_temperature": 0.03,
        "optimizer.learning_rate": 0.04,
    },
    "epochs800": {"training.epochs": 800},
    **FLOAT32,
}
SOURCES = {
    "arXiv:2011.08435, section 5": (
        "data.source",
        "data.views",
        "method.*",
        "training.epochs",
    ),
    "github.com/maple-research-lab/AdCo, ops/argparser.py": (
        "encoder.batchnorm_group",
        "encoder.projector",
        "encoder.projector_widths",
        "optimizer.*",
        "target.*",
    ),
    OURS: FAST,
}


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = moco_imagenet("adco")
    config.encoder.projector_widths = (2048, 128)  # two layers in the released code
    config.optimizer.final_learning_rate = 0.0006
    # Settings of the bank; the released code uses the encoder's momentum for it.
    config.bank_optimizer.momentum = config.optimizer.momentum
    config.bank_optimizer.weight_decay = 1e-4
    return with_variant(config, variant, VARIANTS)
