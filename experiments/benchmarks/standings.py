"""Tables and figure of the tournament: means, paired differences, claims."""

import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from caco_jax.analysis.plots import COLOURS, MARKERS, new_figure, save

MEASURES = {"few": "10 labels a class", "knn": "kNN", "linear": "linear"}
BASELINES = ("moco", "simclr")
CONFIDENCE = 0.95
# The papers' claims about these differences, on ImageNet.
PREDICTIONS = {
    ("adco", "moco"): "above 0, most of all early: +5 points after 10 ImageNet epochs, "
    "+1.1 after 200 (arXiv:2011.08435)",
    ("adco", "adco, frozen bank"): "above 0: the bank has to move (arXiv:2011.08435)",
    ("caco", "moco"): "above 0 (arXiv:2203.14370)",
}

Rows = Sequence[Mapping[str, Any]]
_SIZES = {"bank_size", "queue_size", "symmetric", "importance", "normalisation"}


class Interval(NamedTuple):
    """A mean and half the width of its interval; None for a single value."""

    mean: float
    half: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes zero, so that a difference may be claimed."""
        return self.half is not None and abs(self.mean) > self.half

    def __str__(self) -> str:
        spread = "" if self.half is None else f" ± {self.half:.1f}"
        return f"{self.mean:.1f}{spread}"


def interval(values: Sequence[float]) -> Interval:
    """The confidence interval of the mean by Student's t at `CONFIDENCE`.

    Args:
        values: at least one independent value; one has no interval.
    """
    from scipy.stats import t

    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Interval(mean, None)
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, count - 1))
    return Interval(mean, quantile * statistics.stdev(values) / math.sqrt(count))


def by_seed(rows: Rows, arm: str, epoch: int, measure: str) -> dict[int, float]:
    """Accuracy in per cent of an arm's finals at an epoch, by seed."""
    return {
        row["number"]: 100 * row["marks"][str(epoch)][measure]
        for row in rows
        if (row["stage"], row["arm"]) == ("final", arm)
        and measure in row["marks"].get(str(epoch), {})
    }


def difference(
    rows: Rows, arm: str, baseline: str, *, epoch: int, measure: str
) -> Interval | None:
    """Arm minus baseline in points, paired by seed; None without a common seed."""
    one, other = (by_seed(rows, name, epoch, measure) for name in (arm, baseline))
    pairs = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    return interval(pairs) if pairs else None


def report(rows: Rows) -> str:
    """All tables as Markdown: results, differences, predictions, chosen settings."""
    finals = [row for row in rows if row["stage"] == "final"]
    if not finals:
        return _trials(rows) or "nothing was played yet"
    epochs = sorted({int(epoch) for row in finals for epoch in row["marks"]})
    parts = [
        _results(finals, epochs),
        *(_differences(finals, baseline, epochs) for baseline in BASELINES),
        _changes(finals, epochs),
        _predictions(finals, epochs),
        _banks(finals),
        _choices(rows),
        _trials(rows),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _arms(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in rows))


def _columns(epochs: Sequence[int]) -> list[tuple[str, int]]:
    """Columns: few-shot accuracy at every mark, other measures at the end."""
    last = [(measure, epochs[-1]) for measure in MEASURES if measure != "few"]
    return [("few", epoch) for epoch in epochs] + last


def _heads(epochs: Sequence[int]) -> list[str]:
    return [f"{MEASURES[name]}, epoch {epoch}" for name, epoch in _columns(epochs)]


def _results(finals: Rows, epochs: Sequence[int]) -> str:
    lines = []
    for arm in _arms(finals):
        found = [
            list(by_seed(finals, arm, epoch, measure).values())
            for measure, epoch in _columns(epochs)
        ]
        times = [r["milliseconds_a_step"] for r in finals if r["arm"] == arm]
        cells = [str(interval(values)) if values else "" for values in found]
        lines.append([arm, len(times), *cells, f"{statistics.median(times):.0f}"])
    heads = ["arm", "seeds", *_heads(epochs), "ms a step"]
    return f"Per cent, mean ± {CONFIDENCE:.0%} interval:\n\n{_table(heads, lines)}"


def _marked(found: Interval | None) -> str:
    if found is None:
        return ""
    sign = "+" if found.mean >= 0 else ""
    return f"**{sign}{found}**" if found.excludes_zero else f"{sign}{found}"


def _points(finals: Rows, arm: str, baseline: str, epochs: Sequence[int]) -> list[str]:
    """An arm minus a baseline, in each column."""
    return [
        _marked(difference(finals, arm, baseline, epoch=epoch, measure=measure))
        for measure, epoch in _columns(epochs)
    ]


def _differences(finals: Rows, baseline: str, epochs: Sequence[int]) -> str:
    arms = _arms(finals)
    if baseline not in arms:
        return ""
    lines = [
        [arm, *_points(finals, arm, baseline, epochs)]
        for arm in arms
        if arm != baseline
    ]
    heads = [f"minus {baseline}", *_heads(epochs)]
    return (
        f"Points above {baseline}, paired by seed; bold where the {CONFIDENCE:.0%} "
        f"interval excludes 0:\n\n{_table(heads, lines)}"
    )


def _changes(finals: Rows, epochs: Sequence[int]) -> str:
    """Each changed method, "METHOD, CHANGE", minus the method itself."""
    arms = _arms(finals)
    hosts = {arm: arm.partition(", ")[0] for arm in arms}
    lines = [
        [f"{arm} − {host}", *_points(finals, arm, host, epochs)]
        for arm, host in hosts.items()
        if arm != host and host in arms
    ]
    heads = ["change", *_heads(epochs)]
    title = "Points of a change above the method that it changes:"
    return f"{title}\n\n{_table(heads, lines)}" if lines else ""


def _predictions(finals: Rows, epochs: Sequence[int]) -> str:
    lines = []
    for (arm, baseline), said in PREDICTIONS.items():
        found = [
            difference(finals, arm, baseline, epoch=epoch, measure="few")
            for epoch in epochs
        ]
        if any(found):
            lines.append([f"{arm} − {baseline}", said, *map(_marked, found)])
    heads = ["difference", "papers", *(f"here, epoch {epoch}" for epoch in epochs)]
    return _table(heads, lines) if lines else ""


def _banks(finals: Rows) -> str:
    names = {
        "bank_mass": "mass on the bank",
        "bank_cosine": "nearest cosine",
        "bank_row_length": "row length",
        "bank_turn_degrees": "degrees a step",
        "bank_effective_rows": "effective rows",
    }
    lines = []
    for arm in _arms(finals):
        ends = [list(row["marks"].values())[-1] for row in finals if row["arm"] == arm]
        if "bank_row_length" in ends[0]:
            cells = [
                f"{statistics.fmean(end[key] for end in ends):.3g}"
                if key in ends[0]
                else ""
                for key in names
            ]
            lines.append([arm, *cells])
    return _table(["at the end", *names.values()], lines) if lines else ""


def _choices(rows: Rows) -> str:
    lines = []
    for arm in _arms(rows):
        chosen = [row for row in rows if (row["stage"], row["arm"]) == ("final", arm)]
        if chosen:
            setting = chosen[0]["setting"]
            text = ", ".join(f"{key} {value}" for key, value in setting.items())
            lines.append([arm, chosen[0]["method"], text])
    return _table(["arm", "method", "chosen setting"], lines)


def _trials(rows: Rows) -> str:
    """Results of all trials, with one seed, on images held out of the training set."""
    lines = []
    for row in rows:
        if row["stage"] == "trial":
            end = list(row["marks"].values())[-1]
            setting = {k: v for k, v in row["setting"].items() if k not in _SIZES}
            text = ", ".join(f"{key} {value}" for key, value in setting.items())
            mass = f"{end['bank_mass']:.0%}" if "bank_mass" in end else ""
            accuracies = (f"{100 * end[name]:.1f}" for name in MEASURES)
            lines.append([row["arm"], text, *accuracies, mass])
    heads = ["trial", "setting", *MEASURES.values(), "mass on the bank"]
    return _table(heads, lines) if lines else ""


def draw(rows: Rows, path: str | os.PathLike) -> None:
    """Draws few-shot and kNN accuracy over epochs, with intervals, as a PNG."""
    finals = [row for row in rows if row["stage"] == "final"]
    epochs = sorted({int(epoch) for row in finals for epoch in row["marks"]})
    figure = new_figure(11, 4.6)
    for axis, measure in zip(figure.subplots(1, 2), ("few", "knn"), strict=True):
        for number, arm in enumerate(_arms(finals)):
            found = [
                (epoch, interval(list(values.values())))
                for epoch in epochs
                if (values := by_seed(finals, arm, epoch, measure))
            ]
            axis.errorbar(
                [epoch * 1.015**number for epoch, _ in found],
                [point.mean for _, point in found],
                yerr=[point.half or 0 for _, point in found],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
                label=arm,
                capsize=2,
                linewidth=1,
                markersize=4,
            )
        axis.set(xscale="log", xlabel="epoch", ylabel=f"{MEASURES[measure]}, %")
        axis.set_xticks(epochs, map(str, epochs))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)
