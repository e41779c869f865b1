"""A finished or unfinished run, read back from its directory."""

import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from caco_jax.config import experiment_config
from caco_jax.data.sources import ImageSet
from caco_jax.evaluation.features import extract_features, make_features
from caco_jax.methods.method import Network
from caco_jax.schema import UserError
from caco_jax.training.assemble import (
    Experiment,
    assemble,
    evaluation_view,
    initial_state,
)
from caco_jax.training.checkpoints import Checkpoints, Workdir
from caco_jax.training.mesh import state_shardings
from caco_jax.training.state import TrainState


class Run(NamedTuple):
    """A run and its newest state."""

    files: Workdir
    experiment: Experiment
    state: TrainState

    @property
    def network(self) -> Network:
        """The online encoder."""
        return Network(self.state.players["encoder"], self.state.stats)


def load_run(workdir: str | os.PathLike) -> Run:
    """Reads a run's configuration and its newest checkpoint.

    Args:
        workdir: the run's directory.

    Raises:
        UserError: there is no run, or it saved nothing yet.
    """
    files = Workdir(workdir)
    experiment = assemble(experiment_config(files.read_config()))
    if not files.checkpoints.is_dir():
        raise UserError(
            f"--workdir: {files.path} has no checkpoint yet; let experiments.pretrain "
            "run to its first one"
        )
    with Checkpoints(files) as checkpoints:
        return Run(files, experiment, restore_latest(experiment, checkpoints))


def restore_latest(experiment: Experiment, checkpoints: Checkpoints) -> TrainState:
    """The newest checkpoint's state, on the run's devices."""
    like = jax.eval_shape(lambda: initial_state(experiment))
    return checkpoints.restore(
        jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            like,
            state_shardings(like, experiment.mesh),
        )
    )


class Split(NamedTuple):
    """Features and labels of one part of a set."""

    features: Float[Array, "m f"]
    labels: Int[Array, " m"]


def make_network_features(
    experiment: Experiment,
) -> Callable[[Network], tuple[Split, Split]]:
    """A function of a network: backbone features of training and held-out images.

    It is compiled once, however many networks it is asked about.

    Args:
        experiment: the run, for its images and its encoder.

    Raises:
        UserError: the images have no labels to evaluate with.
    """
    features = make_features(experiment.encoder, evaluation_view(experiment.recipe))

    def of_network(network: Network) -> tuple[Split, Split]:
        return _splits(
            experiment.images,
            lambda pixels: extract_features(
                features, network.params, network.stats, pixels
            ),
        )

    if not experiment.images.has_labels:
        raise UserError(
            f"{experiment.images.name} has no labels: there is nothing to evaluate"
        )
    return of_network


def pixel_features(experiment: Experiment) -> tuple[Split, Split]:
    """Raw pixels in [0, 1] as features, the floor for any encoder."""
    return _splits(
        experiment.images,
        lambda pixels: (pixels / 255.0).astype(np.float32).reshape(len(pixels), -1),
    )


def _splits(
    images: ImageSet, features: Callable[[np.ndarray], np.ndarray]
) -> tuple[Split, Split]:
    train, test = (
        Split(jnp.asarray(features(pixels)), jnp.asarray(labels))
        for pixels, labels in (
            (images.train_images, images.train_labels),
            (images.test_images, images.test_labels),
        )
    )
    return train, test


def read_summary(files: Workdir) -> dict[str, Any]:
    """What the run measured of itself."""
    return json.loads(files.summary_file.read_text())
