"""Whether a run is well: a traffic light a figure, what it means and what to do."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from caco_jax.runs.monitor import (
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
    """One light.

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
    """Where a figure's lights change.

    Attributes:
        what: is judged.
        watch: from here on it is not good; in the direction that is worse.
        act: from here on something is wrong.
        style: of the figure's text.
        meaning: see `Verdict`.
        advice: likewise.
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
        """The light of a figure that was taken after so many epochs."""
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
        "The embeddings are spread out",
        0.3,
        COLLAPSED_STD,
        ".3f",
        "deviation of the embeddings' entries, scaled; 1 fills the sphere, 0 is one "
        "point",
        "Lower the learning rate, lengthen the warm-up, or raise target.momentum.",
    ),
    "bank_used_ever": Scale(
        "The bank's entries serve",
        0.2,
        UNUSED_SHARE,
        ".1%",
        "entries that were ever the positive of a query",
        "Make method.bank_size smaller, or raise bank_optimizer.learning_rate.",
        PATIENCE_EPOCHS,
    ),
    "bank_mass": Scale(
        "The bank plays",
        0.2,
        DEAD_MASS,
        ".1%",
        "share of the softmax at the bank's temperature that lies on its entries and "
        "not on the batch's keys",
        "Lengthen method.start_up_epochs, raise method.bank_temperature or "
        "bank_optimizer.learning_rate, or lower bank_optimizer.weight_decay.",
        BANK_PATIENCE_EPOCHS,
    ),
    "bank_row_length": Scale(
        "The bank's rows keep their length",
        0.5,
        SHRUNK_LENGTH,
        ".3f",
        "median length of the rows, where a key has 1; decay shrinks what no query "
        "pulls",
        "Lower bank_optimizer.weight_decay or raise method.bank_temperature.",
    ),
}
# The share of chance's cross entropy from which on it is not good yet.
NEAR_CHANCE = 1 - 2 * CHANCE_MARGIN

# Those of health.json; the two rank figures are joined, see `_rank`.
HEALTH = {
    "rank_share": Scale(
        "The features use many directions",
        0.1,
        0.02,
        ".1%",
        "effective rank (RankMe), of the most that there can be",
        "Few directions carry everything: train longer, use stronger views, or a "
        "lower temperature.",
    ),
    "deviation": Scale(
        "The features are not all alike",
        0.15,
        COLLAPSED_STD,
        ".3f",
        "deviation of the features' directions; after a ReLU about 0.4 is usual, 0 "
        "has collapsed",
        "Lower the learning rate or raise target.momentum; then start over.",
    ),
    "uniformity": Scale(
        "The features fill the sphere",
        -0.3,
        -0.05,
        ".2f",
        "uniformity; the lower the more even, 0 is one point",
        "Lower the temperature, or train with more negatives.",
    ),
    "alignment": Scale(
        "Two views of an image agree",
        0.5,
        1.0,
        ".3f",
        "mean squared distance of two views' features; 0 is the same",
        "Train longer, or weaken the views: these two may share too little.",
    ),
    "bank_nearest_cosine": Scale(
        "The bank follows the queries",
        0.5,
        0.2,
        ".3f",
        "cosine of a query with its nearest entry",
        "Raise bank_optimizer.learning_rate, or lengthen method.start_up_epochs.",
    ),
    "bank_use_entropy": Scale(
        "The bank's work is shared",
        0.5,
        0.2,
        ".3f",
        "entropy of how often each entry is chosen; 1 is all alike",
        "A few entries serve most queries: raise method.bank_temperature.",
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
    """The lights of a run.

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
        "The run is finished",
        GOOD if finished else WATCH,
        f"{done} of {epochs}",
        "good when all are done",
        "epochs done",
        "" if finished else "The same command on the same directory goes on.",
    )


def _chance(last: Mapping[str, Any], candidates: int) -> Verdict:
    chance = math.log(candidates)
    entropy = last["cross_entropy"]
    stuck = "at_chance" in find_alarms(last["epoch"], last, candidates=candidates)
    stuck = stuck or not math.isfinite(entropy)
    light = ACT if stuck else GOOD if entropy < NEAR_CHANCE * chance else WATCH
    return Verdict(
        "The encoder learns",
        light,
        f"{entropy:.3f} nats",
        f"good below {NEAR_CHANCE:.0%} of {chance:.3f}, act at it after "
        f"{PATIENCE_EPOCHS} epochs",
        f"cross entropy; the logarithm of the {candidates:,} candidates, {chance:.3f}, "
        "is to know nothing",
        ""
        if light == GOOD
        else "Check the views, raise the learning rate, or lower the temperature.",
    )


def _nearness(last: Mapping[str, Any]) -> Verdict:
    cosine, chance = last["bank_cosine"], last["bank_chance_cosine"]
    lost = "bank_lost" in find_alarms(last["epoch"], last, candidates=None)
    middle = (1 + chance) / 2
    light = ACT if lost else GOOD if cosine >= middle else WATCH
    return Verdict(
        "The bank is near the queries",
        light,
        f"{cosine:.3f}",
        f"good above {middle:.3f}, act below {chance:.3f} after {PATIENCE_EPOCHS} "
        "epochs",
        "cosine of a query with its nearest entry; the nearest of as many random "
        f"directions would have {chance:.3f}",
        ""
        if light == GOOD
        else "Raise bank_optimizer.learning_rate or method.bank_temperature, or start "
        "up for longer.",
    )


def _trend(accuracies: list[float]) -> Verdict:
    best, last = max(accuracies), accuracies[-1]
    fine = last >= best - KNN_DROP
    return Verdict(
        "The last encoder is the best",
        GOOD if fine else WATCH,
        f"{last:.1%}",
        f"good within {KNN_DROP:.0%} of it",
        f"last kNN accuracy of what is held out; the best was {best:.1%}",
        "" if fine else "The checkpoint in best/ is better than the newest.",
    )
