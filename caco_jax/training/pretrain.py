"""A pretraining run from its first step or its last checkpoint to its end."""

import dataclasses
import logging
import pathlib
import resource
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax.config import ExperimentConfig, flatten
from caco_jax.data.pipeline import BadImagesError
from caco_jax.evaluation.knn import knn_accuracy
from caco_jax.methods.method import Network
from caco_jax.schema import UserError
from caco_jax.training import loop
from caco_jax.training.alarms import check_finite, find_alarms
from caco_jax.training.assemble import Experiment, assemble
from caco_jax.training.checkpoints import (
    Checkpoints,
    Workdir,
    write_json,
    write_whole,
)
from caco_jax.training.distributed import leads, require_same, together
from caco_jax.training.feeds import OpenFeed, count_bad, experiment_feeds
from caco_jax.training.mesh import alone
from caco_jax.training.runs import (
    make_network_features,
    read_summary,
    restore_latest,
)
from caco_jax.training.state import TrainState

logger = logging.getLogger("caco_jax")

# (epoch, epochs, the epoch's row, images a second so far)
ReportFn = Callable[[int, int, dict[str, Any], float], None]


def peak_memory_bytes() -> int:
    """The most memory that this process held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def config_values(experiment: Experiment) -> dict[str, Any]:
    """The configuration as plain values, as it is saved."""
    values = dataclasses.asdict(experiment.config)
    values["method"] = {"name": experiment.method.name, **values["method"]}
    return values


def pretrain(
    config: ExperimentConfig,
    workdir: str | pathlib.Path,
    *,
    force_new: bool = False,
    report: ReportFn | None = None,
) -> dict[str, Any]:
    """Trains until the configured number of epochs is done, resuming what is there.

    Args:
        config: the run.
        workdir: its directory.
        force_new: move a run that is already there aside and start over.
        report: called after every epoch.

    Returns:
        The summary, as in ``summary.json``: "epochs", "steps", "pretrain_seconds",
        "images_per_second", "peak_memory_bytes", "bad_images" that were skipped.

    Raises:
        UserError: the configuration or the directory does not fit.
        NonFiniteError: a metric became NaN or infinite.
    """
    files = Workdir(workdir)
    require_same(
        {
            **flatten(dataclasses.asdict(config)),
            "method": type(config.method).__name__,
            "--workdir": str(files.path),
            "--force_new": force_new,
            "the version of JAX": jax.__version__,
        }
    )
    experiment = together(lambda: assemble(config))
    values = config_values(experiment)
    together(lambda: files.claim(values, force_new=force_new) if leads() else None)
    with (
        jax.set_mesh(experiment.mesh),
        Checkpoints(files, keep=config.training.keep_checkpoints) as checkpoints,
    ):
        if checkpoints.latest_step() == experiment.total_steps:
            return read_summary(files)
        return _Run(experiment, files, checkpoints, report).to_the_end()


class _Run:
    """The side effects around the loop: metrics, monitor, alarms, checkpoints."""

    def __init__(
        self,
        experiment: Experiment,
        files: Workdir,
        checkpoints: Checkpoints,
        report: ReportFn | None,
    ) -> None:
        self.experiment, self.files, self.checkpoints = experiment, files, checkpoints
        self.report = report or (lambda *args: None)
        self.warned: set[str] = set()
        self.bad = count_bad(experiment)
        self.features = None
        if experiment.images.has_labels:
            self.features = make_network_features(
                experiment,
                bad=self.bad,
                most_train=experiment.config.evaluation.knn_train_images,
            )

    def to_the_end(self) -> dict[str, Any]:
        try:
            return self._train()
        except BadImagesError as error:
            raise UserError(
                f"{error}; all are listed in {self._bad_images_file()}"
            ) from None
        finally:
            if self.bad:
                lines = "".join(f"{line}\n" for line in self.bad.listing())
                write_whole(self._bad_images_file(), lines)

    def _bad_images_file(self) -> pathlib.Path:
        """Of this process: each reads other images."""
        file = self.files.bad_images_file
        return file if leads() else file.with_suffix(f".{jax.process_index()}.txt")

    def _train(self) -> dict[str, Any]:
        experiment, config = self.experiment, self.experiment.config
        logger.info("%s", experiment.method.description)
        if self.features is None:
            logger.info("%s has no labels: no kNN", experiment.images.name)
        before = self._summary_so_far()
        progress = loop.Progress()
        open_feed = experiment_feeds(experiment, self.bad)
        state = self._first_state(open_feed, progress)
        epochs = loop.train_epochs(experiment, state, open_feed, progress)
        for epoch, state, metrics in epochs:
            steps = experiment.steps_per_epoch
            check_finite(epoch * steps - 1, _extremes(state))
            row = self._row(epoch, state, metrics)
            self.files.append_metrics(row)
            self.report(
                epoch, config.training.epochs, row, progress.images_per_second()
            )
            last = epoch == config.training.epochs
            if last or epoch % config.training.checkpoint_every_epochs == 0:
                summary = _summary(epoch, epoch * steps, before, progress)
                summary["bad_images"] = max(len(self.bad), before.get("bad_images", 0))
                if leads():
                    write_json(self.files.summary_file, summary)
                self.checkpoints.save(state)
        return summary

    def _first_state(self, open_feed: OpenFeed, progress: loop.Progress) -> TrainState:
        if self.checkpoints.latest_step() is None:
            self.files.rewind_metrics(0)
            if self.experiment.method.start_up is not None:
                logger.info("start-up: filling the bank")
            return loop.start_up(self.experiment, open_feed, progress)
        state = restore_latest(self.experiment, self.checkpoints)
        self.files.rewind_metrics(int(state.step))
        logger.info("continuing from step %d", int(state.step))
        return state

    def _summary_so_far(self) -> dict[str, Any]:
        if self.checkpoints.latest_step() is None:
            return {}
        return read_summary(self.files)

    def _row(
        self, epoch: int, state: TrainState, metrics: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        config = self.experiment.config
        means = {name: float(np.mean(values)) for name, values in metrics.items()}
        row: dict[str, Any] = {"epoch": epoch, "step": int(state.step), **means}
        every = config.evaluation.knn_every_epochs
        if epoch % every == 0 or epoch == config.training.epochs:
            row["knn"] = self._knn(state)
        candidates = self.experiment.method.candidates
        alarms = find_alarms(
            epoch,
            means,
            candidates=candidates and candidates(config.training.batch_size),
        )
        if alarms:
            row["alarms"] = sorted(alarms)
        for name in alarms.keys() - self.warned:
            logger.warning("epoch %d: %s", epoch, alarms[name])
        self.warned |= alarms.keys()
        return row

    def _knn(self, state: TrainState) -> float | None:
        """Held-out images judged by their nearest training images."""
        if self.features is None:
            return None
        network = Network(state.players["encoder"], state.stats)
        config = self.experiment.config.evaluation
        with alone(network, self.experiment.mesh) as network:
            train, test = self.features(network)
            (accuracy,) = knn_accuracy(
                *test,
                *train,
                num_classes=self.experiment.images.num_classes,
                settings=[(config.knn_neighbours, config.knn_temperature)],
            )
        return accuracy


def _extremes(state: TrainState) -> dict[str, np.ndarray]:
    """The largest value of each player's arrays, as one step's metrics.

    A step's metrics are from before its moves: without these, a last move to infinity
    would be saved as good.
    """
    largest = jax.tree.map(lambda leaf: jnp.max(jnp.abs(leaf)), state.players)
    fetched = jax.tree_util.tree_leaves_with_path(jax.device_get(largest))
    return {
        f"the largest of players{jax.tree_util.keystr(path)}": np.atleast_1d(value)
        for path, value in fetched
    }


def _summary(
    epoch: int, step: int, before: dict[str, Any], progress: loop.Progress
) -> dict[str, Any]:
    seconds = before.get("pretrain_seconds", 0.0) + progress.seconds
    images = before.get("images", 0) + progress.images
    return {
        "epochs": epoch,
        "steps": step,
        "images": images,
        "pretrain_seconds": seconds,
        "images_per_second": images / seconds,
        "peak_memory_bytes": max(
            before.get("peak_memory_bytes", 0), peak_memory_bytes()
        ),
    }
