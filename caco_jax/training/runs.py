"""A finished or unfinished run, read back from its directory."""

import json
import os
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from caco_jax.config import experiment_config
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

    features: Float[np.ndarray, "m f"]
    labels: np.ndarray


def network_features(experiment: Experiment, network: Network) -> tuple[Split, Split]:
    """Backbone features of the training and of the held-out images.

    Args:
        experiment: the run, for its images and its encoder.
        network: whose features; the run's own, or a random one.

    Raises:
        UserError: the images have no labels to evaluate with.
    """
    features = make_features(experiment.encoder, evaluation_view(experiment.recipe))
    images = experiment.images
    if images.train_labels is None or images.test_labels is None:
        raise UserError(f"{images.name} has no labels: there is nothing to evaluate")
    train, test = (
        extract_features(features, network.params, network.stats, pixels)
        for pixels in (images.train_images, images.test_images)
    )
    return Split(train, images.train_labels), Split(test, images.test_labels)


def pixel_features(experiment: Experiment) -> tuple[Split, Split]:
    """Raw pixels in [0, 1] as features, the floor for any encoder."""
    images = experiment.images
    assert images.train_labels is not None and images.test_labels is not None
    train, test = (
        (pixels / 255.0).astype(np.float32).reshape(len(pixels), -1)
        for pixels in (images.train_images, images.test_images)
    )
    return Split(train, images.train_labels), Split(test, images.test_labels)


def read_summary(files: Workdir) -> dict[str, Any]:
    """What the run measured of itself."""
    return json.loads(files.summary_file.read_text())
