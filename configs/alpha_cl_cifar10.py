"""α-CL on CIFAR-10: pair weights chosen directly, beside those of InfoNCE.

Paper:     arXiv:2201.12680
Expected:  not measured yet; the paper has direct above infonce
Cost:      not measured by us; needs accelerators
Command:   python -m experiments.pretrain --config=configs/alpha_cl_cifar10.py \
               --workdir=runs/alpha_cl_cifar10
Variants:  direct, infonce, inverse, quadratic, uniform; cifar100, stl10; two at once
           with a colon between. The projector is ours: the paper states none.
"""

from ml_collections import ConfigDict

from caco_jax.config.recipe import CIFAR100, STL10, Variants, cifar10, with_variant

VARIANTS: Variants = {
    "direct": {},  # the recipe as it is, by the paper's name
    "infonce": {"method.importance": "infonce"},
    "inverse": {"method.importance": "inverse"},
    "quadratic": {"method.importance": "quadratic", "method.power": 2.0},
    "uniform": {"method.importance": "uniform"},
    **CIFAR100,
    **STL10,
}


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = cifar10("alpha_cl")
    config.encoder.projector_widths = (512, 128)
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 0.01
    config.optimizer.schedule = "constant"
    config.optimizer.weight_decay = 0.0
    config.training.batch_size = 128
    config.training.epochs = 100
    return with_variant(config, variant, VARIANTS)
