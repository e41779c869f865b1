"""Your own player: one pattern, added to every query, that ascends the loss.

    python examples/own_player.py

It is a third player beside AdCo's encoder and bank; the library does not change.
"""

import sys

import flax.linen as nn
import jax.numpy as jnp
from sklearn.datasets import load_digits

import caco_jax
from caco_jax.data import DigitView
from caco_jax.methods import View, adco
from caco_jax.optim import OptimizerConfig

QUICK = OptimizerConfig(name="adam", learning_rate=0.03, weight_decay=0.0)


def with_pattern(game, *, shape, radius):
    """Adds a pattern as one more player to a method such as `adco(...)`."""

    def make(embedding_dim):
        method = game(embedding_dim)

        def init(key):
            players, extra = method.init(key)
            return {**players, "pattern": jnp.zeros(shape)}, extra

        def payoff(players, context, views):
            pattern = radius * jnp.tanh(players["pattern"])
            images = views[0].images + pattern[None]
            loss, outcome = method.payoff(players, context, (View(images), *views[1:]))
            metrics = {**outcome.metrics, "strength": jnp.abs(pattern).mean()}
            return loss, outcome._replace(metrics=metrics)

        return method._replace(
            name=f"{method.name}_pattern",
            moves={**method.moves, "pattern": "ascend"},
            init=init,
            payoff=payoff,
            optimizers={**method.optimizers, "pattern": QUICK},
        )

    return make


def _flat(x):
    return x.reshape(len(x), -1)


def main(smoke=False):
    """Trains, or loads a finished run."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype("float32").reshape(-1, 8, 8, 1)
    view = DigitView(max_shift_pixels=1.0)
    one, two = (nn.Conv(width, (3, 3), strides=2) for width in (32, 64))
    run = caco_jax.Pretraining(
        method=with_pattern(adco(bank_size=256), shape=(8, 8, 1), radius=0.2),
        encoder=nn.Sequential([one, nn.relu, two, nn.relu, _flat]),
        projector=(128, 64),
        views=(view, view),
        data=(images, labels),
        optimizers={"encoder": OptimizerConfig(name="adam", learning_rate=3e-3)},
        batch_size=256,
        epochs=2 if smoke else 40,
    )
    run.fit("runs/own_player")
    trained = run.load("runs/own_player")
    print("Held-out digits by their nearest neighbours:")
    for kind in ("backbone", "random", "raw"):
        print(f"  {kind}: {trained.knn(kind=kind):.1%}")
    print(f"the pattern's mean strength: {trained.metrics()[-1]['strength']:.2f}")


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv)
