"""CaCo on scikit-learn's handwritten digits: 1,797 images, nothing is downloaded.

Paper:     arXiv:2203.14370 (the method; digits are ours)
Expected:  linear probe >= 99.0 %, kNN >= 98.0 %, 3 labels a class >= 88 %
Cost:      minutes on four CPU cores
Command:   python -m experiments.pretrain --config=configs/caco_digits.py \
               --workdir=runs/caco_digits
"""

from ml_collections import ConfigDict

from caco_jax.config import default_config
from caco_jax.variants import with_variant


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = default_config("caco")
    config.method.bank_size = 1024
    config.method.temperature = 0.1
    config.method.bank_temperature = 0.1

    config.encoder.backbone = "resnet_tiny"
    config.encoder.width = 16
    config.encoder.stem = "small"
    config.encoder.projector_widths = (128, 128, 64)

    config.optimizer.learning_rate = 0.12
    config.optimizer.warmup_epochs = 5
    config.bank_optimizer.warmup_epochs = 5

    config.training.epochs = 120
    return with_variant(config, variant, {})
