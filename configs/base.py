"""What recipes share: the images and the network of a data set, for any method."""

from typing import Any

from ml_collections import ConfigDict

from caco_jax.config import default_config

Variants = dict[str, dict[str, Any]]

# CLAE over a method that was published without it: ours, at CLAE's own strength.
CLAE: Variants = {"clae": {"adversarial.epsilon": 0.03}}

# Other sets of small images for a CIFAR-10 recipe. Tiny ImageNet is no TFDS set.
CIFAR100: Variants = {"cifar100": {"data.source": "tfds:cifar100"}}
TINY_IMAGENET: Variants = {
    "tiny_imagenet": {"data.source": "folder:tiny-imagenet-200", "data.view_size": 64}
}
STL10: Variants = {"stl10": {"data.source": "tfds:stl10", "data.view_size": 96}}


def imagenet(method: str) -> ConfigDict:
    """ImageNet with a ResNet-50."""
    config = default_config(method)
    config.data.source = "tfds:imagenet2012"
    return config


def moco_imagenet(method: str) -> ConfigDict:
    """ImageNet as MoCo v2 trains on it, and AdCo after it: eight devices of 32."""
    config = imagenet(method)
    config.data.views = "moco_v2"
    config.encoder.projector = "mlp"
    with config.ignore_type():
        config.encoder.batchnorm_group = 32
    config.target.shuffle_keys = True
    config.target.momentum = 0.999
    config.target.schedule = "constant"
    return config


def cifar10(method: str) -> ConfigDict:
    """CIFAR-10 with a ResNet-18 whose stem is a 3x3 convolution without pooling."""
    config = default_config(method)
    config.data.source = "tfds:cifar10"
    config.data.views = "cifar"
    config.encoder.backbone = "resnet18"
    config.encoder.stem = "small"
    config.encoder.projector = "mlp"
    config.evaluation.knn_neighbours = 200
    return config


def clae_instance_cifar10(method: str) -> ConfigDict:
    """CLAE over Plain or UEL on CIFAR-10 (arXiv:2010.12050): what both share."""
    config = cifar10(method)
    config.encoder.projector_widths = (128,)
    config.optimizer.schedule = "steps"
    config.optimizer.milestones = (120, 160, 200)
    config.optimizer.milestone_factors = (0.1, 0.05, 0.01)
    config.optimizer.weight_decay = 5e-4
    config.adversarial.epsilon = 0.03
    config.training.batch_size = 128
    config.training.epochs = 301
    config.evaluation.knn_temperature = 0.07
    return config


def memory_cifar10(method: str) -> ConfigDict:
    """CIFAR-10 for the methods with a target encoder and a bank or queue.

    The papers have no such recipe. These numbers are the usual ones of MoCo v2 on
    CIFAR-10, the same for all three so that they can be compared.
    """
    config = cifar10(method)
    config.encoder.projector_widths = (512, 128)
    config.optimizer.scale_with_batch = True
    config.optimizer.weight_decay = 5e-4
    config.target.schedule = "constant"
    config.training.batch_size = 512
    return config


def digits(method: str) -> ConfigDict:
    """Handwritten digits with a small network: minutes on a CPU."""
    config = default_config(method)
    config.encoder.backbone = "resnet_tiny"
    config.encoder.width = 32
    config.encoder.stem = "small"
    config.encoder.projector_widths = (128, 128, 64)
    config.optimizer.learning_rate = 0.12
    config.optimizer.warmup_epochs = 5
    if "bank_optimizer" in config:
        config.method.bank_size = 1024
        config.bank_optimizer.warmup_epochs = 5
    config.training.epochs = 80
    return config
