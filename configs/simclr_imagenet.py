"""SimCLR on ImageNet, the baseline with a large batch.

Paper:     arXiv:2002.05709
Expected:  linear about 69.1 %, of the released checkpoint
Cost:      not measured by us; needs accelerators
Command:   caco pretrain --config=simclr_imagenet --workdir=runs/simclr_imagenet
Variants:  float32
"""

from ml_collections import ConfigDict

from caco_jax.config.recipe import FAST, FLOAT32, OURS, Variants, imagenet, with_variant

VARIANTS: Variants = {**FLOAT32}
SOURCES = {
    "arXiv:2002.05709, section 2 and appendix B.6": (
        "data.source",
        "data.views",
        "encoder.projector",
        "encoder.projector_widths",
        "optimizer.*",
        "training.*",
    ),
    OURS: FAST,
}


def get_config(variant: str = "") -> ConfigDict:
    """The recipe."""
    config = imagenet("simclr")
    config.data.views = "simclr"
    config.encoder.projector = "mlp"
    config.encoder.projector_widths = (2048, 128)
    config.optimizer.name = "lars"
    config.optimizer.learning_rate = 0.3
    config.optimizer.scale_with_batch = True
    config.optimizer.warmup_epochs = 10
    config.optimizer.weight_decay = 1e-6
    config.training.batch_size = 4096
    config.training.epochs = 1000
    return with_variant(config, variant, VARIANTS)
