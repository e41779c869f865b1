"""A finished or unfinished run, read back from its directory."""

import functools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from caco_jax.config import experiment_config
from caco_jax.data.pipeline import BadImages, CenterSource, stream
from caco_jax.data.records import Records
from caco_jax.data.sources import ImageSet
from caco_jax.evaluation.features import extract_features, make_features
from caco_jax.methods.method import Network
from caco_jax.schema import UserError
from caco_jax.training.assemble import (
    Experiment,
    assemble,
    evaluation_view,
    experiment_shardings,
    initial_state,
)
from caco_jax.training.checkpoints import Checkpoints, Workdir
from caco_jax.training.inputs import photo_sizes
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
        return Run(files, experiment, restore_state(experiment, checkpoints))


def restore_state(
    experiment: Experiment, checkpoints: Checkpoints, *, step: int | None = None
) -> TrainState:
    """A checkpoint's state, on the run's devices; without a step the newest."""
    like = jax.eval_shape(lambda: initial_state(experiment))
    return checkpoints.restore(
        jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            like,
            experiment_shardings(experiment, like),
        ),
        step=step,
    )


class Split(NamedTuple):
    """Features and labels of one part of a set."""

    features: Float[Array, "m f"]
    labels: Int[Array, " m"]


# Images at a time, through the decoders and through the network.
_BATCH_ROWS = 128

# Every call goes through one part of a set: uint8 images [n, H, W, C], their labels.
Part = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


def make_network_features(
    experiment: Experiment,
    *,
    bad: BadImages | None = None,
    most_train: int | None = None,
    poll: Callable[[], None] = lambda: None,
) -> Callable[[Network], tuple[Split, Split]]:
    """A function of a network: backbone features of training and held-out images.

    It is compiled once, however many networks it is asked about. Unreadable images of
    a streamed set are left out, with their labels.

    Args:
        experiment: the run, for its images and its encoder.
        bad: counts the unreadable training images of a streamed set, together with
            whoever else reads them; None: anew.
        most_train: training images at most, spread evenly over the set; None: all.
        poll: called before every batch; what it raises ends the extraction.

    Raises:
        UserError: the images have no labels to evaluate with.
    """
    if not experiment.images.has_labels:
        raise UserError(
            f"{experiment.images.name} has no labels: there is nothing to evaluate"
        )
    compute = make_features(experiment.encoder, evaluation_view(experiment.recipe))
    parts = _parts(experiment, bad, most_train)

    def features(params: Any, stats: Any, images: Array) -> Float[Array, "b f"]:
        poll()
        return compute(params, stats, images)

    def of_network(network: Network) -> tuple[Split, Split]:
        def of_pixels(pixels: np.ndarray) -> np.ndarray:
            return extract_features(
                features,
                network.params,
                network.stats,
                pixels,
                batch_size=_BATCH_ROWS,
            )

        train, test = (_split(part, of_pixels) for part in parts)
        return train, test

    return of_network


def pixel_features(experiment: Experiment) -> tuple[Split, Split]:
    """Raw pixels in [0, 1] as features, the floor for any encoder."""

    def of_pixels(pixels: np.ndarray) -> np.ndarray:
        return (pixels / 255.0).astype(np.float32).reshape(len(pixels), -1)

    train, test = (_split(part, of_pixels) for part in _parts(experiment))
    return train, test


def _parts(
    experiment: Experiment,
    bad: BadImages | None = None,
    most_train: int | None = None,
) -> tuple[Part, Part]:
    """The training and the held-out part of a labelled set."""
    images = experiment.images
    if isinstance(images, ImageSet):
        rows = _spread_rows(len(images.train_images), most_train)
        return (
            functools.partial(_chosen, images.train_images, images.train_labels, rows),
            functools.partial(_chosen, images.test_images, images.test_labels),
        )
    learn, judge = images.evaluation_train, images.test
    assert judge is not None
    share = experiment.config.data.bad_image_share
    if bad is None or learn is not images.train:
        bad = BadImages(images.name, count=len(learn), share=share)
    held_out = BadImages(f"{images.name}, held out", count=len(judge), share=share)
    size_pixels = max(photo_sizes(experiment.recipe))
    return (
        _streamed(learn, _spread_rows(len(learn), most_train), size_pixels, bad),
        _streamed(judge, np.arange(len(judge)), size_pixels, held_out),
    )


def _spread_rows(count: int, at_most: int | None) -> np.ndarray:
    """So many of `count` rows, evenly spread; all of them if they are no more."""
    wanted = count if at_most is None else min(count, at_most)
    return np.linspace(0, count - 1, wanted).round().astype(int)


def _chosen(
    images: np.ndarray, labels: np.ndarray | None, rows: Any = slice(None)
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    assert labels is not None
    yield images[rows], labels[rows]


def _streamed(
    records: Records, rows: np.ndarray, size_pixels: int, bad: BadImages
) -> Part:
    source = CenterSource(records, rows, size_pixels=size_pixels, part_rows=_BATCH_ROWS)

    def part() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        # Threads, for they start at once: decoding and scaling do not hold the lock.
        with stream(source) as crops:
            for images, labels, unreadable in crops:
                bad.add(unreadable)
                if len(labels):
                    yield images, labels

    return part


def _split(part: Part, features: Callable[[np.ndarray], np.ndarray]) -> Split:
    pieces = [(features(pixels), labels) for pixels, labels in part()]
    if not pieces:
        raise UserError(
            "config.data.source: want images to evaluate with, none can be read"
        )
    columns = zip(*pieces, strict=True)
    return Split(*(jnp.asarray(np.concatenate(rows)) for rows in columns))


def read_summary(files: Workdir) -> dict[str, Any]:
    """What the run measured of itself."""
    return json.loads(files.summary_file.read_text())
