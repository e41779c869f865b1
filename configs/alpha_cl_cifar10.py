"""α-CL on CIFAR-10: direct pair weights, with those of InfoNCE as a variant.

Paper:     arXiv:2201.12680
Expected:  not measured yet; the paper has direct above infonce. Its figures are each
           run's best epoch on the test images, so an honest run's are lower
Cost:      not measured by us; needs accelerators
Command:   caco pretrain --config=alpha_cl_cifar10 --workdir=runs/alpha_cl_cifar10
Variants:  direct, infonce, inverse, quadratic, uniform; cifar100, stl10; two at once
           with a colon between
The released code does not shuffle its images, and decreases the learning rate to 0.0088
from epoch 10 on; here images are shuffled and the rate is constant.
"""

from ml_collections import ConfigDict

from caco_jax.config.recipe import CIFAR100, OURS, Variants, cifar10, with_variant

VARIANTS: Variants = {
    "direct": {},  # the recipe without a change, under the paper's name
    "infonce": {"method.importance": "infonce"},
    "inverse": {"method.importance": "inverse"},
    "quadratic": {"method.importance": "quadratic", "method.power": 2.0},
    "uniform": {"method.importance": "uniform"},
    **CIFAR100,
    "stl10": {
        "data.source": "tfds:stl10",
        "data.train_split": "train+unlabelled",
        "data.view_size": 96,
        "data.view.mean": (0.0,),
        "data.view.std": (1.0,),
        "data.view.brightness": 0.8,
        "data.view.contrast": 0.8,
        "data.view.saturation": 0.8,
        "data.view.hue_turns": 0.2,
        "data.view.blur_probability": 1.0,
        "encoder.stem": "imagenet",
    },
}
SOURCES = {
    "arXiv:2201.12680, section 6": (
        "data.source",
        "encoder.backbone",
        "method.*",
        "training.*",
    ),
    "github.com/facebookresearch/luckmatters, ssl/real-dataset/data/transforms.py": (
        "data.views",
        "stl10/data.view*",
    ),
    "github.com/facebookresearch/luckmatters, ssl/real-dataset/main.py": (
        "stl10/data.source",
        "stl10/data.train_split",
    ),
    "github.com/facebookresearch/luckmatters, ssl/real-dataset/models": (
        "encoder.stem",
        "encoder.projector",
        "encoder.projector_widths",
    ),
    "github.com/facebookresearch/luckmatters, ssl/real-dataset/config": (
        "optimizer.*",
    ),
    OURS: ("evaluation.knn_neighbours",),
}


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = cifar10("alpha_cl")
    config.encoder.projector = "alpha_cl"
    config.encoder.projector_widths = (512, 128)
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 0.01
    config.optimizer.schedule = "constant"
    config.optimizer.weight_decay = 0.0
    config.training.batch_size = 128
    config.training.epochs = 100
    return with_variant(config, variant, VARIANTS)
