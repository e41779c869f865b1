"""A run small enough for every test: 48 fake images, a two-layer encoder."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from caco_jax.config.build import build_run
from caco_jax.config.sections import ExperimentConfig, default_config, experiment_config
from caco_jax.runs.pretraining import Pretraining
from caco_jax.training.sharding import make_mesh

SETTINGS = {
    "method.bank_size": 40,
    "encoder.backbone": "tests.runs.tiny:Backbone",
    "encoder.projector": "mlp",
    "encoder.projector_widths": (4,),
    "data.source": "fake:8x8x1x48",
    "training.batch_size": 16,
    "training.epochs": 4,
    "training.checkpoint_every_epochs": 1,
    "evaluation.knn_every_epochs": 2,
    "evaluation.knn_neighbours": 3,
}
# Methods with a bank, which the settings name.
METHODS = ("caco", "adco")
# Mild temperatures: at the papers' own, differences in the last bit grow at every step.
MILD = {"method__temperature": 0.5, "method__bank_temperature": 0.4}


class Backbone(nn.Module):
    """Dense, BatchNorm, ReLU."""

    @nn.compact
    def __call__(self, images, *, train):
        hidden = nn.Dense(8, name="hidden")(images.reshape(len(images), -1))
        norm = nn.BatchNorm(momentum=0.9, use_running_average=not train, name="norm")
        return nn.relu(norm(hidden))


class TinyEncoder(nn.Module):
    """The same as the backbone; dense as the projector."""

    dim: int = 4

    def setup(self):
        self.hidden = nn.Dense(8)
        self.norm = nn.BatchNorm(momentum=0.9)
        self.projector = nn.Dense(self.dim)

    def features(self, images, *, train=False, branch="clean"):
        hidden = self.hidden(images.reshape(len(images), -1))
        return nn.relu(self.norm(hidden, use_running_average=not train))

    def __call__(self, images, *, train, branch="clean"):
        return self.projector(self.features(images, train=train, branch=branch))


def recipe(method="caco", **changes):
    """The tiny recipe, as a ConfigDict; a double underscore stands for the dot."""
    config = default_config(method)
    settings = dict(SETTINGS)
    if method not in METHODS:
        del settings["method.bank_size"]
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict({**settings, **changes})
    return config


def config(method="caco", **changes) -> ExperimentConfig:
    """The same, validated."""
    return experiment_config(recipe(method, **changes))


@functools.cache
def run(method="caco", *, devices=1, **changes) -> Pretraining:
    """The parts of a tiny run, mild if it has a bank, on so many devices."""
    mild = MILD if method in METHODS else {}
    mesh = make_mesh(jax.devices()[:devices])
    return build_run(config(method, **{**mild, **changes}), mesh=mesh)


def train_examples(run):
    """All training images, as an array."""
    return jnp.asarray(run.data.train_examples)
