"""Contrastive pretraining as a game between players, in JAX.

`Pretraining` trains any encoder on any arrays with a method of `methods`; `load` reads
a trained one back. `losses` has the payoffs alone, as pure functions. What is not
listed in ``__all__`` here or in one of the listed modules is internal.
"""

import importlib
from typing import TYPE_CHECKING, Any

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

__version__ = "0.1.0"

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
    "ArrayDataset": "caco_jax.data.dataset",
    "ConfigError": "caco_jax.schema",
    "EncoderFunctions": "caco_jax.nets.functions",
    "Pretraining": "caco_jax.runs.pretraining",
    "UserError": "caco_jax.schema",
    "Views": "caco_jax.data.view_kinds",
    "load": "caco_jax.config.build",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: the losses need little else."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"caco_jax.{name}")
    raise AttributeError(f"module 'caco_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
