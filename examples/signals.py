"""SimCLR on one-dimensional signals, with a network and a view of one's own.

    python signals.py

The signals are made on the spot: three shapes of wave (sine, square, saw-tooth) of
random frequency and phase under noise, 64 samples each. Their labels are used for the
kNN monitor only.
"""

import flax.linen as nn
import jax
import numpy as np

import caco_jax
from caco_jax.optim import OptimizerConfig


def make_waves(count, seed=0):
    """Signals [N, 64, 1] and the names of their shapes [N]."""
    rng = np.random.default_rng(seed)
    shapes = ("sine", "square", "saw")
    names = rng.choice(shapes, count)
    cycles, phase = rng.uniform(2, 5, (count, 1)), rng.uniform(0, 1, (count, 1))
    turns = cycles * np.linspace(0, 1, 64) + phase
    waves = {
        "sine": np.sin(2 * np.pi * turns),
        "square": np.sign(np.sin(2 * np.pi * turns)),
        "saw": 2 * (turns % 1) - 1,
    }
    signals = np.select([names[:, None] == name for name in shapes], waves.values())
    signals = signals + rng.normal(0, 0.3, signals.shape)
    return signals[..., None].astype(np.float32), names


def shift_and_scale(key, signal):
    """A view: the signal rolled, louder or softer, under noise."""
    roll, scale, noise = jax.random.split(key, 3)
    signal = jax.numpy.roll(signal, jax.random.randint(roll, (), 0, 64), axis=0)
    signal = signal * jax.random.uniform(scale, minval=0.7, maxval=1.3)
    return signal + 0.1 * jax.random.normal(noise, signal.shape)


class ConvNet(nn.Module):
    """Three convolutions over time, then their mean: [N, T, C] -> [N, 64]."""

    @nn.compact
    def __call__(self, signals):
        """Features of a batch of signals."""
        x = signals
        for width in (32, 64, 64):
            x = nn.LayerNorm()(nn.relu(nn.Conv(width, (7,), strides=2)(x)))
        return x.mean(axis=1)


if __name__ == "__main__":
    run = caco_jax.Pretraining(
        method=caco_jax.methods.simclr(temperature=0.2),
        encoder=ConvNet(),
        projector=(64, 32),
        views=(shift_and_scale, shift_and_scale),
        data=make_waves(2000),
        optimizers={"encoder": OptimizerConfig(name="adam", learning_rate=3e-3)},
        batch_size=200,
        epochs=20,
        checkpoint_every_epochs=5,
    )
    run.fit("runs/signals")  # run again, it goes on or shows what is there
    features = caco_jax.load(
        "runs/signals", encoder=ConvNet(), projector=(64, 32)
    ).embed(make_waves(100, seed=1)[0])
    print(f"features of 100 new signals: {features.shape}")
    rows = run.load("runs/signals").files.read_metrics()
    print(f"kNN on held-out signals: {rows[-1]['knn']:.1%}; chance is 33.3%")
