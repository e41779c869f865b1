"""Contrastive pretraining as a game between players, in JAX.

`Pretraining` trains any encoder on any arrays with a method of `methods`; `load` reads
a trained one back. `losses` has the payoffs alone, as pure functions. What is not
listed in ``__all__`` here or in one of the listed modules is internal.
"""

from typing import TYPE_CHECKING

from caco_jax._lazy import attach

if TYPE_CHECKING:
    from caco_jax import (
        analysis,
        data,
        evaluation,
        losses,
        methods,
        nets,
        optim,
        report,
    )
    from caco_jax.config.build import load
    from caco_jax.data.dataset import ArrayDataset
    from caco_jax.data.view_kinds import Views
    from caco_jax.nets.functions import EncoderFunctions
    from caco_jax.runs.pretraining import Pretraining
    from caco_jax.schema import ConfigError, UserError

__version__ = "0.2.0"

__all__ = [
    "ArrayDataset",
    "ConfigError",
    "EncoderFunctions",
    "Pretraining",
    "UserError",
    "Views",
    "analysis",
    "data",
    "evaluation",
    "load",
    "losses",
    "methods",
    "nets",
    "optim",
    "report",
]

_HOMES = {
    "config.build": ("load",),
    "data.dataset": ("ArrayDataset",),
    "data.view_kinds": ("Views",),
    "nets.functions": ("EncoderFunctions",),
    "runs.pretraining": ("Pretraining",),
    "schema": ("ConfigError", "UserError"),
}

# Imported on first use: the losses alone need few packages.
__getattr__ = attach(__name__, _HOMES, modules=__all__)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
