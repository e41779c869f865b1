"""AdCo on handwritten digits, with a network and an optimiser of one's own.

    python own_digits.py

The digits are scikit-learn's, as bytes: bytes reach views and network as floats in
[0, 1]. The view is the library's for digits.
"""

import flax.linen as nn
import numpy as np
import optax
from sklearn.datasets import load_digits

import caco_jax
from caco_jax.data import DigitView, Views


class SmallNet(nn.Module):
    """Two convolutions of stride 2: [N, 8, 8, 1] -> [N, 256]."""

    @nn.compact
    def __call__(self, images, train):
        """Features of a batch of images."""
        x = images
        for width in (32, 64):
            x = nn.Conv(width, (3, 3), strides=2)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return x.reshape(len(x), -1)


if __name__ == "__main__":
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    view = DigitView(max_shift_pixels=1.0)
    run = caco_jax.Pretraining(
        method=caco_jax.methods.adco(bank_size=256, bank_temperature=0.1),
        encoder=SmallNet(),
        projector=(128, 64),
        views=Views((view, view), mean=(0.3,), std=(0.32,)),
        data=(images, digits.target),
        optimizers={
            "encoder": optax.sgd(0.05, momentum=0.9)
        },  # AdCo's own for the bank
        batch_size=256,
        epochs=30,
    )
    run.fit("runs/own_digits")
    print(f"kNN: {run.load('runs/own_digits').files.read_metrics()[-1]['knn']:.1%}")
