"""Data: sets of examples, sources of images, views and augmentation on the device."""

from typing import TYPE_CHECKING

from caco_jax._lazy import attach

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


# Who reads records needs no JAX.
__getattr__ = attach(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
