"""Alarms of a run: thresholds of its metrics, what each means and what to do."""

import math
from collections.abc import Mapping
from typing import NamedTuple

# The thresholds; the report's diagnostics use the same.
COLLAPSED_STD = 0.05  # scaled standard deviation of the embeddings
CHANCE_MARGIN = 0.01  # distance of the cross entropy from that of chance
UNUSED_SHARE = 0.02  # share of the bank's entries
DEAD_MASS = 0.05  # softmax probability on the bank's entries, at the bank's temperature
SHRUNK_LENGTH = 0.2  # norm of the bank's rows; that of a key is 1
PATIENCE_EPOCHS = 10  # epochs before chance, use and nearness are meaningful
BANK_PATIENCE_EPOCHS = 2  # epochs before the probability on the bank is meaningful


class Alarm(NamedTuple):
    """An alarm in words, for the log, the report and the documentation.

    Attributes:
        meaning: when it is raised, a whole sentence.
        remedy: what to do, as an imperative.
    """

    meaning: str
    remedy: str

    @property
    def advice(self) -> str:
        """The remedy as a sentence."""
        return f"{self.remedy[0].upper()}{self.remedy[1:]}."


ALARMS = {
    "collapsed": Alarm(
        f"The scaled standard deviation of the embeddings is below {COLLAPSED_STD}: "
        "all embeddings are almost equal.",
        "lower the learning rate, lengthen the warm-up, or raise target.momentum",
    ),
    "at_chance": Alarm(
        f"After {PATIENCE_EPOCHS} epochs the cross entropy is still the logarithm of "
        "the number of candidates: the encoder learns nothing.",
        "check the augmented views, raise the learning rate, or lower the temperature",
    ),
    "bank_unused": Alarm(
        f"After {PATIENCE_EPOCHS} epochs less than {UNUSED_SHARE:.0%} of the bank's "
        "entries have been the positive of any query.",
        "lower method.bank_size, lengthen method.start_up_epochs, or raise "
        "bank_optimizer.learning_rate",
    ),
    "bank_dead": Alarm(
        f"After {BANK_PATIENCE_EPOCHS} epochs all entries of the bank together have "
        f"less than {DEAD_MASS:.0%} of the softmax at the bank's temperature. The "
        "rest is on the keys of the batch, and the gradient of the bank is almost "
        "zero.",
        "lengthen method.start_up_epochs, raise method.bank_temperature or "
        "bank_optimizer.learning_rate, or lower bank_optimizer.weight_decay",
    ),
    "bank_shrunk": Alarm(
        f"Half of the bank's rows have a norm below {SHRUNK_LENGTH}; a key has norm "
        "1. Weight decay shrinks rows that get no gradient.",
        "lower bank_optimizer.weight_decay or raise method.bank_temperature",
    ),
    "bank_lost": Alarm(
        f"After {PATIENCE_EPOCHS} epochs queries are less similar to their nearest "
        "entry than to the nearest of as many random directions.",
        "lengthen method.start_up_epochs, or raise bank_optimizer.learning_rate or "
        "method.bank_temperature",
    ),
}


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
    facts = _facts(metrics, candidates)
    patience = {"collapsed": 0, "bank_shrunk": 0, "bank_dead": BANK_PATIENCE_EPOCHS}
    return {
        name: f"{fact}; {ALARMS[name].remedy}"
        for name, fact in facts.items()
        if epoch >= patience.get(name, PATIENCE_EPOCHS)
    }


def _facts(metrics: Mapping[str, float], candidates: int | None) -> dict[str, str]:
    """What the metrics show, by alarm name, whatever the epoch."""
    facts = {}
    if metrics.get("embedding_std", 1.0) < COLLAPSED_STD:
        facts["collapsed"] = (
            "the embeddings have collapsed: their scaled standard deviation is "
            f"{metrics['embedding_std']:.3f}, 1 is spread out, 0 a single point"
        )
    entropy = metrics.get("cross_entropy")
    if entropy is not None and candidates is not None:
        chance = math.log(candidates)
        if abs(entropy - chance) < CHANCE_MARGIN * chance:
            facts["at_chance"] = (
                f"the cross entropy is {entropy:.3f}, the logarithm of the number of "
                f"candidates ({chance:.3f}): the encoder learns nothing"
            )
    return facts | _bank_facts(metrics)


def _bank_facts(metrics: Mapping[str, float]) -> dict[str, str]:
    """What the metrics show of a bank: unused, dead, shrunk or lost."""
    facts = {}
    if metrics.get("bank_used_ever", 1.0) < UNUSED_SHARE:
        facts["bank_unused"] = (
            f"only {metrics['bank_used_ever']:.1%} of the bank's entries were ever a "
            "positive: the bank is too large or does not learn"
        )
    mass, length = metrics.get("bank_mass", 1.0), metrics.get("bank_row_length", 1.0)
    if mass < DEAD_MASS:
        facts["bank_dead"] = (
            f"the bank is dead: {mass:.1%} of the softmax probability at its "
            "temperature is on its entries, the rest on the keys of the batch"
        )
    if length < SHRUNK_LENGTH:
        facts["bank_shrunk"] = (
            f"half of the bank's rows have a norm below {length:.3f}, where a key has "
            "1: weight decay shrinks rows without a gradient"
        )
    cosine = metrics.get("bank_cosine", 1.0)
    chance = metrics.get("bank_chance_cosine", -1.0)
    if cosine < chance:
        facts["bank_lost"] = (
            "the bank has lost the queries: the cosine similarity of a query to its "
            f"nearest entry is {cosine:.3f}, to the nearest of as many random "
            f"directions {chance:.3f}"
        )
    return facts
