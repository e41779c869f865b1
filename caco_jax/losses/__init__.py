"""Losses: pure functions of arrays."""

from caco_jax.losses.contrast import (
    info_nce,
    l2_normalize,
    moco_loss,
    nt_xent,
    plain_loss,
    uel_loss,
)

__all__ = [
    "info_nce",
    "l2_normalize",
    "moco_loss",
    "nt_xent",
    "plain_loss",
    "uel_loss",
]
