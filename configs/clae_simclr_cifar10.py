"""CLAE over SimCLR on CIFAR-10: an adversary moves the pixels of view 1.

Paper:     arXiv:2010.12050
Expected:  the accuracy tables are not at hand: not measured yet
Cost:      not measured by us; needs accelerators
Command:   python -m experiments.pretrain --config=configs/clae_simclr_cifar10.py \
               --workdir=runs/clae_simclr_cifar10
Variants:  cifar100, tiny_imagenet
The paper states neither the rate of Adam nor the hidden width: these are usual.
"""

from ml_collections import ConfigDict

from caco_jax.config.recipe import (
    CIFAR100,
    TINY_IMAGENET,
    Variants,
    cifar10,
    with_variant,
)

VARIANTS: Variants = {**CIFAR100, **TINY_IMAGENET}


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = cifar10("simclr")
    config.method.temperature = 0.5
    config.encoder.projector_widths = (512, 64)
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "constant"
    config.optimizer.weight_decay = 0.0
    config.adversarial.epsilon = 0.03
    config.training.epochs = 100
    return with_variant(config, variant, VARIANTS)
