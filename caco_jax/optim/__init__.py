"""Optimisers and schedules, composed of optax transformations."""

from caco_jax.optim.optimizers import (
    adam,
    adamw,
    ascend,
    ema_update,
    larc_sgd,
    lars,
    sgd,
)
from caco_jax.optim.settings import OptimizerConfig, TargetConfig

__all__ = [
    "OptimizerConfig",
    "TargetConfig",
    "adam",
    "adamw",
    "ascend",
    "ema_update",
    "larc_sgd",
    "lars",
    "sgd",
]
