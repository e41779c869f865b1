"""Data: sets of examples, sources of images, views and augmentation on the device."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caco_jax.data.dataset import ArrayDataset, Dataset, RecordDataset, as_dataset
    from caco_jax.data.sources import load
    from caco_jax.data.view_kinds import DigitView, PhotoView, PlainView, Views
    from caco_jax.data.views import VIEWS, make_views

__all__ = [
    "VIEWS",
    "ArrayDataset",
    "Dataset",
    "DigitView",
    "PhotoView",
    "PlainView",
    "RecordDataset",
    "Views",
    "as_dataset",
    "load",
    "make_views",
]

_HOMES = {
    "dataset": ("ArrayDataset", "Dataset", "RecordDataset", "as_dataset"),
    "sources": ("load",),
    "view_kinds": ("DigitView", "PhotoView", "PlainView", "Views"),
    "views": ("VIEWS", "make_views"),
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: who reads records needs no JAX."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
