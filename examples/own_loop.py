"""The losses in your own training loop: flax.nnx, optax and AdCo's bank.

    python examples/own_loop.py

The bank is one more array with its own optimiser; the data are scikit-learn's digits.
"""

import sys

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from caco_jax.data import DigitView
from caco_jax.evaluation import knn_accuracy
from caco_jax.losses import adco_loss, l2_normalize
from caco_jax.optim import ascend


class Net(nnx.Module):
    """Two convolutions and a projection, in flax.nnx: [N, 8, 8, 1] -> [N, 64]."""

    def __init__(self, rngs):
        self.first = nnx.Conv(1, 32, (3, 3), strides=2, rngs=rngs)
        self.second = nnx.Conv(32, 64, (3, 3), strides=2, rngs=rngs)
        self.projector = nnx.Linear(256, 64, rngs=rngs)

    def features(self, images):
        """Features for evaluation, [N, 256]."""
        x = nnx.relu(self.second(nnx.relu(self.first(images))))
        return x.reshape(len(x), -1)

    def __call__(self, images):
        """Unit embeddings."""
        return l2_normalize(self.projector(self.features(images)))


def main(steps=400):
    """Trains and prints the accuracy."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype("float32").reshape(-1, 8, 8, 1)
    train, test, known, asked = train_test_split(images, labels, random_state=0)
    graph, params = nnx.split(Net(nnx.Rngs(0)))
    bank = jax.random.normal(jax.random.key(1), (512, 64))
    players = {"encoder": params, "bank": bank}
    moves = {"encoder": optax.adam(1e-3), "bank": ascend(optax.sgd(3.0, momentum=0.9))}
    optimizer = optax.partition(moves, {"encoder": "encoder", "bank": "bank"})
    view = jax.vmap(DigitView(max_shift_pixels=1.0))

    def payoff(players, key, images):
        net = nnx.merge(graph, players["encoder"])
        one, two = (view(k, images) for k in jax.random.split(key, (2, len(images))))
        keys = jax.lax.stop_gradient(net(two))
        game = {"temperature": 0.12, "bank_temperature": 0.02}
        return adco_loss(net(one), keys, players["bank"], **game)[0]

    @jax.jit
    def step(players, state, key, images):
        gradients = jax.grad(payoff)(players, key, images)
        updates, state = optimizer.update(gradients, state, players)
        return optax.apply_updates(players, updates), state

    def judge(params):
        new, old = (nnx.merge(graph, params).features(x) for x in (test, train))
        return knn_accuracy(new, asked, old, known, num_classes=10)[0]

    state, rng = optimizer.init(players), np.random.default_rng(0)
    for i in range(steps):
        batch = rng.choice(train, 256, replace=False)
        players, state = step(players, state, jax.random.key(i), batch)
    print("Held-out digits by their nearest neighbours:")
    print(f"  {judge(players['encoder']):.1%} trained, {judge(params):.1%} untrained")


if __name__ == "__main__":
    main(steps=3 if "--smoke" in sys.argv else 400)
