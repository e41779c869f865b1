"""Batches of CIFAR's views by a PyTorch DataLoader with Pillow."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from caco_jax.data.view_kinds import PhotoView
from caco_jax.data.views import cifar
from experiments.benchmarks.pillow_views import random_view


class Views(Dataset[Any]):
    """Two views of each image, [C, H, W] floats."""

    def __init__(self, images: np.ndarray) -> None:
        self._images, self._recipe = images, cifar()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        recipe = self._recipe
        rng = np.random.default_rng([torch.initial_seed(), index])
        image = Image.fromarray(self._images[index])
        mean, std = (np.array(row, np.float32) for row in (recipe.mean, recipe.std))
        return [
            torch.from_numpy(random_view(rng, image, view, mean, std)).permute(2, 0, 1)
            for view in recipe.views
            if isinstance(view, PhotoView)
        ]


def view_batches(
    images: int, batch: int, *, workers: int, pin: bool
) -> Iterator[list[torch.Tensor]]:
    """Endless batches of two views [N, 3, 32, 32] each.

    Args:
        images: number of generated images in the set.
        batch: images in one step.
        workers: worker processes of the loader.
        pin: whether batches are in page-locked memory.
    """
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    loader = DataLoader(
        Views(pixels),
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        # Not fork, because JAX has threads in this process.
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        pin_memory=pin,
    )
    while True:
        yield from loader
