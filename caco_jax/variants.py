"""Variants of a recipe: named differences, and the smoke run that every recipe has."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from caco_jax.schema import ConfigError


def with_variant(
    config: ConfigDict, variant: str, variants: Mapping[str, Mapping[str, Any]]
) -> ConfigDict:
    """A recipe with the values of its variants.

    Args:
        config: the recipe; changed in place.
        variant: a name, or several with colons between; "" for the recipe as it is.
        variants: for each name, dotted keys and their values.

    Raises:
        ConfigError: there is no such variant; the message lists those that are.
    """
    for name in variant.split(":") if variant else ():
        if name not in variants:
            known = ", ".join([*variants, "smoke"])
            raise ConfigError(f"want one of the variants {known}, got {name!r}")
        with config.ignore_type():  # the schema judges types
            config.update_from_flattened_dict(variants[name])
    return config


_SMOKE = {
    "encoder.backbone": "resnet_tiny",
    "encoder.width": 4,
    "encoder.stem": "small",
    "training.batch_size": 8,
    "training.epochs": 1,
    "evaluation.knn_neighbours": 3,
    "optimizer.warmup_epochs": 0,
}
_SMOKE_SIZE_PIXELS = 16


def smoke(config: ConfigDict) -> ConfigDict:
    """A recipe shrunk to three steps of eight made-up images, for seconds on a CPU.

    The method, its settings, the optimisers and the kind of views stay; the network,
    the bank or queue, the images and the schedules become as small as can be.

    Args:
        config: any recipe; it is not changed.
    """
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(_SMOKE)
    widths = [8] * len(config.encoder.projector_widths)
    config.encoder.projector_widths = tuple(widths)
    photos, size = config.data.views != "digits", _SMOKE_SIZE_PIXELS
    config.data.source = f"fake:{size}x{size}x{3 if photos else 1}x24"
    with config.ignore_type():
        config.data.view_size = size if photos else None
    if config.encoder.batchnorm_group is not None:
        config.encoder.batchnorm_group = 4
    for rows in ("bank_size", "queue_size"):
        if rows in config.method:
            config.method[rows] = 32
    if "start_up_epochs" in config.method:
        config.method.start_up_epochs = 0
    if "bank_optimizer" in config:
        config.bank_optimizer.warmup_epochs = 0
    return config
