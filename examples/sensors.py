"""SimCLR on sensor signals, with your own ConvNet and views.

    python examples/sensors.py

The signals are simulated: vibrations of a machine that is healthy, misaligned or has a
worn bearing. The encoder learns without the states of the machines, which are used for
kNN evaluation only.
"""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import caco_jax

STATES = ("healthy", "misaligned", "worn bearing")


def vibrations(count, seed=0):
    """Signals [N, 128, 1] and the states of their machines [N]."""
    rng = np.random.default_rng(seed)
    states = rng.integers(3, size=count)
    turns = rng.uniform(8, 9, (count, 1)) * np.linspace(0, 1, 128)
    turns = turns + rng.uniform(size=(count, 1))
    hum = np.sin(2 * np.pi * turns)
    harmonic = 0.6 * np.sin(4 * np.pi * turns + 1)
    knocks = 1.2 * np.exp(-6 * (turns % 1)) * np.sin(10 * np.pi * turns)
    signals = hum + np.choose(states[:, None], [0 * hum, harmonic, knocks])
    signals = signals + rng.normal(0, 0.3, signals.shape)
    return signals[..., None].astype(np.float32), np.array(STATES)[states]


def shaken(key, signal):
    """A view: jitter, scaling and a shift in time."""
    jitter, scaling, shift = jax.random.split(key, 3)
    signal = jnp.roll(signal, jax.random.randint(shift, (), 0, len(signal)), axis=0)
    signal = signal * jax.random.uniform(scaling, minval=0.5, maxval=1.5)
    return signal + 0.3 * jax.random.normal(jitter, signal.shape)


class ConvNet(nn.Module):
    """Three convolutions over time, then their mean: [N, T, C] -> [N, 64]."""

    @nn.compact
    def __call__(self, signals):
        """Features of a batch of signals."""
        x = signals
        for width in (32, 64, 64):
            x = nn.LayerNorm()(nn.relu(nn.Conv(width, (7,), strides=2)(x)))
        return x.mean(axis=1)


def main(smoke=False):
    """Trains, or loads a finished run, and prints the accuracy."""
    run = caco_jax.Pretraining(
        method=caco_jax.methods.simclr(temperature=0.2),
        encoder=ConvNet(),
        projector=(64, 32),
        views=(shaken, shaken),
        data=vibrations(200 if smoke else 1000),
        optimizers={"encoder": optax.adam(3e-3)},
        batch_size=96,
        epochs=2 if smoke else 30,
    )
    run.fit("runs/sensors")  # run again to resume, or to load a finished run
    trained = run.load("runs/sensors")
    print("The state of a machine that was not seen, by its nearest neighbours:")
    for kind in ("backbone", "random", "raw"):
        print(f"  {kind}: {trained.knn(kind=kind):.1%}")
    new, _ = vibrations(5, seed=1)
    print(f"features of five new signals: {trained.embed(new).shape}")


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv)
