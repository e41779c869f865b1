"""# A first run: pretrain, evaluate, analyse, your own data.

All of it by public names of `caco_jax`, in about a minute on a CPU.
"""

# %%
import logging
import pathlib
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

import caco_jax
from caco_jax.analysis import plots
from caco_jax.data import DigitView
from caco_jax.evaluation import evaluate_features
from caco_jax.optim import TargetConfig

logging.getLogger("caco_jax").setLevel(logging.ERROR)
HERE = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## Pretrain
#
# CaCo on handwritten digits: a network of two convolutions, a bank of 256 entries, and
# views that move and shade a digit. Labels are not used for training.

# %%


class Net(nn.Module):
    """Two convolutions of stride 2: [N, H, W, C] -> [N, F]."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Features of a batch of images."""
        x = images
        for width in (32, 64):
            x = nn.Conv(width, (3, 3), strides=2)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return x.reshape(len(x), -1)


run = caco_jax.Pretraining(
    # So few images fill the bank at once, before keys mean anything: start up longer.
    method=caco_jax.methods.caco(
        bank_size=256,
        temperature=0.1,
        bank_temperature=0.1,
        start_up_epochs=10,
        start_up_momentum=0.95,
    ),
    encoder=Net(),
    projector=(128, 64),
    views=(DigitView(), DigitView()),
    data=caco_jax.data.load("digits"),
    optimizers={"encoder": optax.adam(1e-3)},
    target=TargetConfig(momentum=0.95),
    batch_size=64,
    epochs=20,
)
summary = run.fit(HERE / "digits")
print(f"{summary['epochs']} epochs, {summary['steps']} steps")

# %% [markdown]
# ## Evaluate
#
# Accuracy on held-out digits: kNN, a linear probe, three labels for each class; beside
# that of the network before training and of the pixels themselves.

# %%
trained = run.load(HERE / "digits")
for kind in ("backbone", "random", "raw"):
    train, test = trained.features(kind=kind)
    figures = evaluate_features(*train, *test, num_classes=10)
    print(f"{kind:10}", {name: f"{figure:.1%}" for name, figure in figures.items()})
assert trained.knn() > 0.9

# %% [markdown]
# ## Analyse
#
# Learning curves and an embedding map of the digits. `caco_jax.report.write_report`
# writes all results as one page.

# %%
plots.plot_learning_curves(trained.metrics(), HERE / "curves.png")
Image.open(HERE / "curves.png")

# %%
_, test = trained.features()
plots.plot_embedding_map(
    np.asarray(test.features),
    np.asarray(test.labels),
    HERE / "map.png",
    class_names=trained.data.class_names,
)
Image.open(HERE / "map.png")

# %% [markdown]
# ## Your own data
#
# Any arrays, any network, any function as a view. These signals are generated: two
# tones or one, at any speed and phase, with noise.

# %%
rng = np.random.default_rng(0)
tones = rng.integers(1, 3, 1000)
time = rng.uniform(6, 9, (1000, 1)) * np.linspace(0, 1, 128)
time = time + rng.uniform(size=(1000, 1))
second = np.where(tones[:, None] == 2, 0.6, 0.0) * np.sin(4 * np.pi * time + 1)
signals = np.sin(2 * np.pi * time) + second + rng.normal(0, 0.8, time.shape)


class SignalNet(nn.Module):
    """Three convolutions over time, then their mean: [N, T, C] -> [N, 64]."""

    @nn.compact
    def __call__(self, signals: jax.Array) -> jax.Array:
        """Features of a batch of signals."""
        x = signals
        for width in (32, 64, 64):
            x = nn.LayerNorm()(nn.relu(nn.Conv(width, (7,), strides=2)(x)))
        return x.mean(axis=1)


def shaken(key: jax.Array, signal: jax.Array) -> jax.Array:
    """A view: shifted, louder or softer, under noise."""
    shift, scale, noise = jax.random.split(key, 3)
    signal = jnp.roll(signal, jax.random.randint(shift, (), 0, len(signal)), axis=0)
    signal = signal * jax.random.uniform(scale, minval=0.5, maxval=1.5)
    return signal + 0.3 * jax.random.normal(noise, signal.shape)


own = caco_jax.Pretraining(
    method=caco_jax.methods.simclr(temperature=0.2),
    encoder=SignalNet(),
    projector=(64, 32),
    views=(shaken, shaken),
    data=(signals[..., None].astype(np.float32), tones),
    optimizers={"encoder": optax.adam(3e-3)},
    batch_size=96,
    epochs=30,
)
own.fit(HERE / "signals")
found = own.load(HERE / "signals")
shares = {kind: found.knn(kind=kind) for kind in ("backbone", "random", "raw")}
print({kind: f"{share:.1%}" for kind, share in shares.items()})
assert shares["backbone"] > max(shares["random"], shares["raw"])
