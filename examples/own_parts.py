"""Your own data, views and backbone on the command line, named by import paths.

    caco pretrain --config=simclr_digits --workdir=runs/own_parts \
        --config.data.source=own_parts:make_signals \
        --config.data.views=own_parts:shaken \
        --config.encoder.backbone=own_parts:ConvNet --config.encoder.options.width=16 \
        --config.training.epochs=10 --config.training.batch_size=100
    caco knn --workdir=runs/own_parts

The import paths are saved in the run's config.json: evaluation needs this file, too.
"""

import flax.linen as nn
import jax
import numpy as np


def make_signals():
    """Examples [N, 32, 1] and labels [N]: noise, with or without a bump."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    bump = np.exp(-np.square(np.arange(32) - rng.uniform(8, 24, (500, 1))) / 8)
    signals = labels[:, None] * bump * 3 + rng.normal(0, 0.5, (500, 32))
    return signals[..., None].astype(np.float32), labels


def shaken(key, signal):
    """A view: more noise."""
    return signal + 0.3 * jax.random.normal(key, signal.shape)


class ConvNet(nn.Module):
    """Two convolutions over time and their largest values."""

    width: int = 32

    @nn.compact
    def __call__(self, signals):
        """Features of a batch of signals."""
        x = nn.relu(nn.Conv(self.width, (5,))(signals))
        return nn.relu(nn.Conv(2 * self.width, (5,))(x)).max(axis=1)
