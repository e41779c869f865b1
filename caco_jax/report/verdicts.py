"""The diagnostics of a run: each metric is rated good, watch or act, with advice."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from caco_jax.runs.alarms import (
    ALARMS,
    BANK_PATIENCE_EPOCHS,
    CHANCE_MARGIN,
    COLLAPSED_STD,
    DEAD_MASS,
    PATIENCE_EPOCHS,
    SHRUNK_LENGTH,
    UNUSED_SHARE,
    find_alarms,
)

GOOD, WATCH, ACT = "good", "watch", "act"


class Verdict(NamedTuple):
    """The rating of one metric.

    Attributes:
        what: is judged.
        light: "good", "watch" or "act".
        value: the figure, as text.
        limits: where the lights change, in words.
        meaning: of the figure.
        advice: what to do; empty where it is good.
    """

    what: str
    light: str
    value: str
    limits: str
    meaning: str
    advice: str = ""


class Scale(NamedTuple):
    """The thresholds of a metric's ratings.

    Attributes:
        what: is judged.
        watch: from here on it is not good; in the direction that is worse.
        act: from here on something is wrong.
        style: of the figure's text.
        meaning: see `Verdict`.
        advice: see `Verdict`.
        patience: epochs before which nothing is wrong yet.
    """

    what: str
    watch: float
    act: float
    style: str
    meaning: str
    advice: str
    patience: int = 0

    def judge(self, value: float, epoch: float = math.inf) -> Verdict:
        """Rates a value that was measured after a number of epochs."""
        rises = self.watch > self.act  # whether larger is better
        sign = 1 if rises else -1
        wrong = sign * value < sign * self.act and epoch >= self.patience
        light = GOOD
        if wrong or not math.isfinite(value):
            light = ACT
        elif sign * value < sign * self.watch:
            light = WATCH
        better = "above" if rises else "below"
        worse = "below" if rises else "above"
        limits = (
            f"good {better} {self.watch:{self.style}}, "
            f"act {worse} {self.act:{self.style}}"
            f"{f' after {self.patience} epochs' if self.patience else ''}"
        )
        advice = "" if light == GOOD else self.advice
        text = format(value, self.style)
        return Verdict(self.what, light, text, limits, self.meaning, advice)


# Those of metrics.jsonl. Where there is an alarm, "act" is where it sounds.
METRICS = {
    "embedding_std": Scale(
        "Spread of the embeddings",
        0.3,
        COLLAPSED_STD,
        ".3f",
        "The scaled standard deviation of the embeddings' entries is 1 if they cover "
        "the sphere and 0 if all are one point (collapse).",
        ALARMS["collapsed"].advice,
    ),
    "bank_used_ever": Scale(
        "Bank entries chosen at least once",
        0.2,
        UNUSED_SHARE,
        ".1%",
        "This share of the entries has been the positive of at least one query since "
        "training began.",
        ALARMS["bank_unused"].advice,
        PATIENCE_EPOCHS,
    ),
    "bank_mass": Scale(
        "Softmax mass on the bank",
        0.2,
        DEAD_MASS,
        ".1%",
        "This share of the softmax at the bank's temperature lies on the bank's "
        "entries; the rest lies on the batch's keys.",
        ALARMS["bank_dead"].advice,
        BANK_PATIENCE_EPOCHS,
    ),
    "bank_row_length": Scale(
        "Length of the bank's rows",
        0.5,
        SHRUNK_LENGTH,
        ".3f",
        "This is the median length; a key has length 1. Weight decay shrinks rows "
        "that get no gradient.",
        ALARMS["bank_shrunk"].advice,
    ),
}
# The share of chance's cross entropy from which on it is not good yet.
NEAR_CHANCE = 1 - 2 * CHANCE_MARGIN

# Those of health.json; the two rank figures are joined, see `_rank`.
HEALTH = {
    "rank_share": Scale(
        "Effective rank of the features",
        0.1,
        0.02,
        ".1%",
        "This is RankMe as a share of its largest possible value.",
        "The features lie in few directions: train longer, use stronger views, or "
        "lower the temperature.",
    ),
    "deviation": Scale(
        "Deviation of the features",
        0.15,
        COLLAPSED_STD,
        ".3f",
        "The scaled standard deviation of the features' directions is usually about "
        "0.4 after a ReLU and 0 after collapse.",
        f"{ALARMS['collapsed'].advice} Then start a new run.",
    ),
    "uniformity": Scale(
        "Uniformity of the features",
        -0.3,
        -0.05,
        ".2f",
        "Lower values mean a more even spread over the sphere; 0 means one point.",
        "Lower the temperature, or train with more negatives.",
    ),
    "alignment": Scale(
        "Alignment of two views",
        0.5,
        1.0,
        ".3f",
        "This is the mean squared distance of two views' features; 0 means that they "
        "are equal.",
        "Train longer, or weaken the views: they may share too little.",
    ),
    "bank_nearest_cosine": Scale(
        "Nearest bank entry, by caco health",
        0.5,
        0.2,
        ".3f",
        "This is the mean cosine of a query with its nearest entry.",
        "Raise bank_optimizer.learning_rate, or lengthen method.start_up_epochs.",
    ),
    "bank_use_entropy": Scale(
        "Evenness of the bank's choices",
        0.5,
        0.2,
        ".3f",
        "The scaled entropy of how often each entry is chosen is 1 if all entries are "
        "chosen equally often.",
        "A few entries are chosen by most queries: raise method.bank_temperature.",
    ),
}
KNN_DROP = 0.02


def run_verdicts(
    rows: list[dict[str, Any]],
    health: Mapping[str, Any] | None,
    *,
    epochs: int,
    candidates: int | None,
) -> list[Verdict]:
    """The ratings of a run's metrics.

    Args:
        rows: its metric lines, oldest first.
        health: its health.json; None where that was not measured.
        epochs: that were asked for.
        candidates: see `find_alarms`.
    """
    last = rows[-1] if rows else {}
    found = [_progress(last.get("epoch", 0), epochs)]
    if "cross_entropy" in last and candidates:
        found.append(_chance(last, candidates))
    found += [
        scale.judge(last[name], last["epoch"])
        for name, scale in METRICS.items()
        if _number(last.get(name))
    ]
    if _number(last.get("bank_cosine")) and _number(last.get("bank_chance_cosine")):
        found.append(_nearness(last))
    accuracies = [row["knn"] for row in rows if _number(row.get("knn"))]
    if accuracies:
        found.append(_trend(accuracies))
    figures = dict(health or {})
    if "effective_rank" in figures:
        most = min(figures["images"], figures["features"])
        figures["rank_share"] = figures["effective_rank"] / most
    found += [s.judge(figures[n]) for n, s in HEALTH.items() if _number(figures.get(n))]
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


def _progress(done: int, epochs: int) -> Verdict:
    finished = done >= epochs
    return Verdict(
        "Epochs completed",
        GOOD if finished else WATCH,
        f"{done} of {epochs}",
        "good when all are completed",
        "The run is complete." if finished else "The run is not complete.",
        "" if finished else "Rerun the same command to resume.",
    )


def _chance(last: Mapping[str, Any], candidates: int) -> Verdict:
    chance = math.log(candidates)
    entropy = last["cross_entropy"]
    stuck = "at_chance" in find_alarms(last["epoch"], last, candidates=candidates)
    stuck = stuck or not math.isfinite(entropy)
    light = ACT if stuck else GOOD if entropy < NEAR_CHANCE * chance else WATCH
    return Verdict(
        "Cross entropy against chance",
        light,
        f"{entropy:.3f} nats",
        f"good below {NEAR_CHANCE:.0%} of {chance:.3f}, act at {chance:.3f} after "
        f"{PATIENCE_EPOCHS} epochs",
        f"An untrained encoder has {chance:.3f} nats, the logarithm of the "
        f"{candidates:,} candidates.",
        "" if light == GOOD else ALARMS["at_chance"].advice,
    )


def _nearness(last: Mapping[str, Any]) -> Verdict:
    cosine, chance = last["bank_cosine"], last["bank_chance_cosine"]
    lost = "bank_lost" in find_alarms(last["epoch"], last, candidates=None)
    middle = (1 + chance) / 2
    light = ACT if lost else GOOD if cosine >= middle else WATCH
    return Verdict(
        "Nearest bank entry against chance",
        light,
        f"{cosine:.3f}",
        f"good above {middle:.3f}, act below {chance:.3f} after {PATIENCE_EPOCHS} "
        "epochs",
        "This is the mean cosine of a query with its nearest entry; with as many "
        f"random directions it would be {chance:.3f}.",
        "" if light == GOOD else ALARMS["bank_lost"].advice,
    )


def _trend(accuracies: list[float]) -> Verdict:
    best, last = max(accuracies), accuracies[-1]
    fine = last >= best - KNN_DROP
    return Verdict(
        "Last kNN accuracy against the best",
        GOOD if fine else WATCH,
        f"{last:.1%}",
        f"good within {KNN_DROP:.0%} of the best",
        f"The best kNN accuracy on held-out examples was {best:.1%}.",
        "" if fine else "The checkpoint in best/ is better than the newest one.",
    )
