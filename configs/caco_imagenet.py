"""CaCo on ImageNet: two different views, a cooperative and adversarial bank.

Paper:     arXiv:2203.14370
Expected:  linear 71.3 % (200 epochs, batch 1024), 72.0 % (batch 4096),
           75.3 % (800 epochs), as published
Cost:      not measured by us; needs accelerators
Command:   caco pretrain --config=caco_imagenet --workdir=runs/caco_imagenet
Variants:  batch4096, epochs800, float32
"""

from ml_collections import ConfigDict

from caco_jax.config.recipe import FAST, FLOAT32, OURS, Variants, imagenet, with_variant

VARIANTS: Variants = {
    "batch4096": {"training.batch_size": 4096},
    "epochs800": {"training.epochs": 800},
    **FLOAT32,
}
SOURCES = {
    "arXiv:2203.14370, section 4": ("data.source", "training.*"),
    "github.com/maple-research-lab/CaCo, its published command": (
        "data.views",
        "optimizer.*",
        "bank_optimizer.*",
    ),
    OURS: FAST,
}


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = imagenet("caco")
    config.data.views = "caco"
    config.optimizer.name = "lars"
    config.optimizer.learning_rate = 0.3
    config.optimizer.final_learning_rate = 0.003
    config.optimizer.scale_with_batch = True
    config.optimizer.warmup_epochs = 10
    config.optimizer.weight_decay = 1.5e-6
    config.bank_optimizer.warmup_epochs = 10
    config.training.batch_size = 1024
    return with_variant(config, variant, VARIANTS)
