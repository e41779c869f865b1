"""Configurations: sections with value ranges, recipes, and building runs from them."""

from caco_jax.config.sections import (
    ExperimentConfig,
    default_config,
    experiment_config,
)
from caco_jax.schema import flatten

__all__ = ["ExperimentConfig", "default_config", "experiment_config", "flatten"]
