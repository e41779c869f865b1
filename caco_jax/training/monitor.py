"""What is said of an epoch: its mean metrics, how it is judged where due, alarms."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from caco_jax.data.pipeline import BadImages
from caco_jax.evaluation.knn import knn_accuracy
from caco_jax.evaluation.online import online_metrics
from caco_jax.methods.method import Network
from caco_jax.training.alarms import find_alarms
from caco_jax.training.assemble import Experiment
from caco_jax.training.loop import Metrics
from caco_jax.training.mesh import alone
from caco_jax.training.runs import make_network_features
from caco_jax.training.state import TrainState

logger = logging.getLogger("caco_jax")


class Monitor:
    """Makes the metric line of each epoch.

    Args:
        experiment: the run.
        bad: counts unreadable images.
        rows: lines of the epochs done, whose alarms are not sounded again.
        poll: called now and then while there is much to compute; may raise.
    """

    def __init__(
        self,
        experiment: Experiment,
        bad: BadImages,
        rows: Sequence[dict[str, Any]] = (),
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        self._experiment = experiment
        self._warned = {alarm for row in rows for alarm in row.get("alarms", [])}
        self._features = None
        if experiment.images.has_labels:
            self._features = make_network_features(
                experiment,
                bad=bad,
                most_train=experiment.config.evaluation.knn_train_images,
                poll=poll,
            )
        else:
            logger.info("%s has no labels: no kNN", experiment.images.name)

    def row(self, epoch: int, state: TrainState, metrics: Metrics) -> dict[str, Any]:
        """The line of an epoch.

        Args:
            epoch: its number, from 1.
            state: at its end.
            metrics: of each of its steps.
        """
        config = self._experiment.config
        means = _means(metrics)
        row: dict[str, Any] = {"epoch": epoch, "step": int(state.step), **means}
        every = config.evaluation.knn_every_epochs
        if epoch % every == 0 or epoch == config.training.epochs:
            row |= self._judge(state)
        candidates = self._experiment.method.candidates
        alarms = find_alarms(
            epoch,
            means,
            candidates=candidates and candidates(config.training.batch_size),
        )
        if alarms:
            row["alarms"] = sorted(alarms)
        for name in alarms.keys() - self._warned:
            logger.warning("epoch %d: %s", epoch, alarms[name])
        self._warned |= alarms.keys()
        return row

    def _judge(self, state: TrainState) -> dict[str, float | None]:
        """Held-out images judged by training images: neighbours, and a linear head."""
        if self._features is None:
            return {"knn": None}
        network = Network(state.players["encoder"], state.stats)
        config = self._experiment.config.evaluation
        with alone(network, self._experiment.mesh) as network:
            train, test = self._features(network)
            num_classes = self._experiment.images.num_classes
            (accuracy,) = knn_accuracy(
                *test,
                *train,
                num_classes=num_classes,
                settings=[(config.knn_neighbours, config.knn_temperature)],
            )
            found: dict[str, float | None] = {"knn": accuracy}
            if config.online_linear:
                found |= online_metrics(*train, *test, num_classes=num_classes)
        return found


def _means(metrics: Metrics) -> dict[str, float]:
    """The means over an epoch's steps; of skipped ones only their number counts."""
    skipped = metrics.get("skipped")
    if skipped is None:
        return {name: float(np.mean(values)) for name, values in metrics.items()}
    kept = {
        name: values[skipped == 0]
        for name, values in metrics.items()
        if name != "skipped"
    }
    means = {
        name: float(np.mean(values)) if len(values) else math.nan
        for name, values in kept.items()
    }
    return {**means, "skipped": int(skipped.sum())}
