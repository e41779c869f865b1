"""A run small enough for every test: 48 fake images, a two-layer encoder."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from caco_jax.config.sections import ExperimentConfig, default_config, experiment_config
from caco_jax.methods import adco, caco
from caco_jax.runs.pretraining import Experiment, assemble
from caco_jax.training.sharding import make_mesh

SETTINGS = {
    "method.bank_size": 40,
    "encoder.backbone": "resnet_tiny",
    "encoder.width": 4,
    "encoder.stem": "small",
    "encoder.projector_widths": (8, 8, 4),
    "data.source": "fake:8x8x1x48",
    "training.batch_size": 16,
    "training.epochs": 4,
    "training.checkpoint_every_epochs": 1,
    "evaluation.knn_every_epochs": 2,
    "evaluation.knn_neighbours": 3,
}


class TinyEncoder(nn.Module):
    """Dense, BatchNorm, ReLU as the backbone; dense as the projector."""

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


def recipe(**changes):
    """The tiny recipe, as a ConfigDict; a double underscore stands for the dot."""
    config = default_config("caco")
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict({**SETTINGS, **changes})
    return config


def config(**changes) -> ExperimentConfig:
    """The same, validated."""
    return experiment_config(recipe(**changes))


# Mild temperatures: at the papers' own, differences in the last bit grow at every step.
MILD = {"bank_size": 40, "temperature": 0.5, "bank_temperature": 0.4}
METHODS = {
    "caco": lambda: caco.make(caco.CacoConfig(**MILD), embedding_dim=4),
    "adco": lambda: adco.make(adco.AdcoConfig(**MILD), embedding_dim=4),
}


@functools.cache
def _assembled(**changes):
    return assemble(config(**changes))


def experiment(method="caco", *, devices, **changes) -> Experiment:
    """The parts of a tiny run of a method on these devices."""
    return _assembled(**changes)._replace(
        method=METHODS[method](), encoder=TinyEncoder(), mesh=make_mesh(devices)
    )


def train_examples(experiment):
    """All training images, as an array."""
    return jnp.asarray(experiment.images.train_examples)
