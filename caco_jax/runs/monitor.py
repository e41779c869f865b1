"""The metric line of an epoch: means, kNN evaluation, alarms."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from caco_jax.data.pipeline import BadImages
from caco_jax.evaluation.knn import knn_accuracy
from caco_jax.evaluation.online import online_metrics
from caco_jax.methods.method import Network
from caco_jax.runs.pretraining import Pretraining
from caco_jax.runs.run import make_network_features
from caco_jax.runs.telemetry import BankTelemetry
from caco_jax.training.loop import Metrics
from caco_jax.training.sharding import alone
from caco_jax.training.state import TrainState

logger = logging.getLogger("caco_jax")

# Thresholds of the alarms; the verdicts of a report use the same.
COLLAPSED_STD = 0.05  # scaled standard deviation of the embeddings
CHANCE_MARGIN = 0.01  # distance of the cross entropy from that of chance
UNUSED_SHARE = 0.02  # share of the bank's entries
DEAD_MASS = 0.05  # softmax probability on the bank's entries, at the bank's temperature
SHRUNK_LENGTH = 0.2  # norm of the bank's rows; that of a key is 1
PATIENCE_EPOCHS = 10  # epochs before chance, use and nearness are meaningful
BANK_PATIENCE_EPOCHS = 2  # epochs before the probability on the bank is meaningful


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


def find_alarms(
    epoch: int, metrics: Mapping[str, float], *, candidates: int | None
) -> dict[str, str]:
    """Warnings about an epoch's mean metrics, by alarm name.

    Args:
        epoch: epochs done.
        metrics: the epoch's means.
        candidates: number of classes of the cross entropy: the positive and the
            negatives. A random encoder has its logarithm. None if the method has no
            such number.
    """
    alarms = {}
    if metrics.get("embedding_std", 1.0) < COLLAPSED_STD:
        alarms["collapsed"] = (
            f"the embeddings have collapsed: their scaled standard deviation is "
            f"{metrics['embedding_std']:.3f}, 1 is spread out, 0 a single point"
        )
    alarms |= _bank_alarms(epoch, metrics)
    if epoch < PATIENCE_EPOCHS:
        return alarms
    entropy = metrics.get("cross_entropy")
    if entropy is not None and candidates is not None:
        chance = math.log(candidates)
        if abs(entropy - chance) < CHANCE_MARGIN * chance:
            alarms["at_chance"] = (
                f"the cross entropy is {entropy:.3f}, the logarithm of the number of "
                f"candidates ({chance:.3f}): the encoder learns nothing"
            )
    if metrics.get("bank_used_ever", 1.0) < UNUSED_SHARE:
        alarms["bank_unused"] = (
            f"only {metrics['bank_used_ever']:.1%} of the bank's entries were ever a "
            "positive: the bank is larger than it need be, or not learning"
        )
    return alarms


def _bank_alarms(epoch: int, metrics: Mapping[str, float]) -> dict[str, str]:
    """Alarms of a collapsed bank, which an adversary in particular can show."""
    alarms = {}
    mass, length = metrics.get("bank_mass", 1.0), metrics.get("bank_row_length", 1.0)
    if mass < DEAD_MASS and epoch >= BANK_PATIENCE_EPOCHS:
        alarms["bank_dead"] = (
            f"the bank is dead: {mass:.1%} of the softmax probability at its "
            "temperature is on its entries, the rest on the keys of the batch; "
            "lengthen method.start_up_epochs, raise method.bank_temperature or "
            "bank_optimizer.learning_rate, or lower bank_optimizer.weight_decay"
        )
    if length < SHRUNK_LENGTH:
        alarms["bank_shrunk"] = (
            f"half of the bank's rows have a norm below {length:.3f}, where a key has "
            "1: weight decay shrinks rows without a gradient; lower "
            "bank_optimizer.weight_decay or raise method.bank_temperature"
        )
    cosine = metrics.get("bank_cosine", 1.0)
    chance = metrics.get("bank_chance_cosine", -1.0)
    if cosine < chance and epoch >= PATIENCE_EPOCHS:
        alarms["bank_lost"] = (
            "the bank has lost the queries: the cosine similarity of a query to its "
            f"nearest entry is {cosine:.3f}, to the nearest of as many random "
            f"directions {chance:.3f}; lengthen method.start_up_epochs, or raise "
            "bank_optimizer.learning_rate or method.bank_temperature"
        )
    return alarms
