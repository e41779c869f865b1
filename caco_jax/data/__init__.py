"""Data: sets of examples, sources of images, views and augmentation on the device."""

from caco_jax.data.dataset import ArrayDataset, Dataset, RecordDataset, as_dataset
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
    "make_views",
]
