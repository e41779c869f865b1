"""The metric line of an epoch: means, kNN evaluation, alarms."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from caco_jax.data.pipeline import BadImages
from caco_jax.evaluation.knn import knn_accuracy
from caco_jax.evaluation.online import online_metrics
from caco_jax.methods.method import Network
from caco_jax.runs.alarms import find_alarms
from caco_jax.runs.pretraining import Pretraining
from caco_jax.runs.run import make_network_features
from caco_jax.runs.telemetry import BankTelemetry
from caco_jax.training.loop import Metrics
from caco_jax.training.sharding import alone
from caco_jax.training.state import TrainState

logger = logging.getLogger("caco_jax")


class Monitor:
    """Makes the metric line of each epoch.

    Args:
        run: the run.
        bad: counts unreadable images.
        rows: lines of the epochs done; their alarms are not repeated.
        poll: called regularly during long computations; it may raise.
    """

    def __init__(
        self,
        run: Pretraining,
        bad: BadImages,
        rows: Sequence[dict[str, Any]] = (),
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        self._run = run
        self._warned = {alarm for row in rows for alarm in row.get("alarms", [])}
        self._bank = BankTelemetry(run, bad)
        self._features = None
        if run.data.has_labels:
            self._features = make_network_features(
                run,
                bad=bad,
                most_train=run.evaluation.knn_train_images,
                kind=run.evaluation.features,
                poll=poll,
            )
        else:
            logger.info("%s has no labels: no kNN", run.data.name)

    def row(self, epoch: int, state: TrainState, metrics: Metrics) -> dict[str, Any]:
        """The metric line of an epoch.

        Args:
            epoch: its number, from 1.
            state: state at its end.
            metrics: metrics of each of its steps.
        """
        means = _means(metrics)
        means |= self._bank.row(state, means)
        rates = self._run.learning_rates(max(int(state.step) - 1, 0))
        means |= {f"learning_rate_{name}": rate for name, rate in rates.items()}
        row: dict[str, Any] = {"epoch": epoch, "step": int(state.step), **means}
        every = self._run.evaluation.knn_every_epochs
        if epoch % every == 0 or epoch == self._run.training.epochs:
            row |= self._judge(state)
        candidates = self._run.method.candidates
        alarms = find_alarms(
            epoch,
            means,
            candidates=candidates and candidates(self._run.training.batch_size),
        )
        if alarms:
            row["alarms"] = sorted(alarms)
        for name in alarms.keys() - self._warned:
            logger.warning("epoch %d: %s", epoch, alarms[name])
        self._warned |= alarms.keys()
        return row

    def _judge(self, state: TrainState) -> dict[str, float | None]:
        """Accuracies on held-out images: kNN, and a linear head if configured."""
        if self._features is None:
            return {"knn": None}
        network = Network(state.players["encoder"], state.stats)
        config = self._run.evaluation
        with alone(network, self._run.mesh) as network:
            train, test = self._features(network)
            num_classes = self._run.data.num_classes
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
    """Means over the steps of an epoch; of skipped steps only the number is kept."""
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
