"""Metrics of a classifier's scores: accuracies, confidence intervals, precision."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

LEVEL = 0.95  # confidence level of the intervals
DRAWS = 1000


class Interval(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


class Accuracies(NamedTuple):
    """The accuracies of a classifier.

    Attributes:
        top1: share of rows whose class has the largest score.
        top5: share of rows whose class is among the five largest; 1 for five classes
            or fewer.
        by_class: [C] accuracies on the rows of each class; NaN for a class without
            rows.
        interval: confidence interval of the top-1 accuracy, by bootstrap over the rows.
    """

    top1: float
    top5: float
    by_class: Float[np.ndarray, " c"]
    interval: Interval


def accuracies(
    scores: Float[np.ndarray, "b c"], labels: Int[np.ndarray, " b"]
) -> Accuracies:
    """All accuracies of scores [B, C].

    Of equal scores the lowest class comes first. A row with a score that is not a
    number is wrong.

    Raises:
        ValueError: the shapes do not fit, or a label is no class.
    """
    places = label_places(scores, labels)
    right = places == 0
    counts = np.bincount(labels, minlength=scores.shape[1])
    hits = np.bincount(labels, weights=right, minlength=scores.shape[1])
    by_class = np.divide(
        hits, counts, out=np.full(len(counts), np.nan), where=counts > 0
    )
    return Accuracies(
        float(right.mean()),
        float((places < 5).mean()),
        by_class,
        bootstrap_interval(lambda rows: float(right[rows].mean()), len(right)),
    )


def label_places(
    scores: Float[np.ndarray, "b c"], labels: Int[np.ndarray, " b"]
) -> Int[np.ndarray, " b"]:
    """Rank of each row's class: the number of classes before it, by score.

    See `accuracies` for ties, NaN, and errors.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(
            f"expected scores [B, C] and labels [B], got {scores.shape} and "
            f"{labels.shape}"
        )
    count = scores.shape[1]
    if labels.min() < 0 or labels.max() >= count:
        raise ValueError(
            f"labels: expected classes 0 to {count - 1}, got {labels.min()} to "
            f"{labels.max()}"
        )
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(count)[None] < labels[:, None]
    before = (scores > own) | ((scores == own) & earlier)
    return np.where(np.isnan(scores).any(axis=1), count, before.sum(axis=1))


def bootstrap_interval(
    statistic: Callable[[Int[np.ndarray, " b"]], float],
    count: int,
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Bootstrap percentile interval of a statistic over rows.

    Args:
        statistic: function of row indices, some of which repeat.
        count: B, number of rows.
        level: share of the draws between the ends.
        draws: number of bootstrap samples.
        seed: seed of the samples.

    Raises:
        ValueError: the level is not in (0, 1), or a count is below 1.

    References:
        Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number in (0, 1), got {level}")
    for name, number in {"count": count, "draws": draws}.items():
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}")
    rng = np.random.default_rng(seed)
    found = [statistic(rng.integers(0, count, count)) for _ in range(draws)]
    tail = 50 * (1 - level)
    return Interval(*map(float, np.percentile(found, (tail, 100 - tail))))


def average_precision(
    scores: Float[np.ndarray, " b"],
    relevant: Bool[np.ndarray, " b"],
    *,
    eleven_points: bool = False,
) -> float:
    """Average precision: how well scores rank the rows of a class before the others.

    The area under the precision-recall curve as a step function; rows of equal score
    count together. PASCAL VOC 2007's definition differs: the mean over the recalls 0,
    0.1, ..., 1 of the best precision at that recall or more.

    Args:
        scores: [B].
        relevant: [B], which rows are of the class.
        eleven_points: whether to use VOC 2007's definition.

    Returns:
        A number in [0, 1]; NaN if no row is of the class.

    References:
        Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge",
        section 4.2.
    """
    if not relevant.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last = np.append(
        np.diff(scores[order]) != 0, True
    )  # last row of each group of equal scores
    hits = np.cumsum(relevant[order])[last]
    precision = hits / (np.flatnonzero(last) + 1)
    recall = hits / hits[-1]
    if not eleven_points:
        return float(np.sum(np.diff(recall, prepend=0.0) * precision))
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or more
    points = np.arange(11) / 10
    return float(np.mean(best[np.searchsorted(recall, points - 1e-12)]))


def mean_average_precision(
    scores: Float[np.ndarray, "b c"],
    relevant: Bool[np.ndarray, "b c"],
    *,
    eleven_points: bool = False,
) -> float:
    """Mean average precision over the classes that have rows.

    Raises:
        ValueError: the shapes differ, or no class has a row.
    """
    if scores.ndim != 2 or relevant.shape != scores.shape:
        raise ValueError(
            f"expected scores and labels [B, C], got {scores.shape} and "
            f"{relevant.shape}"
        )
    if not relevant.any():
        raise ValueError("labels: expected a row of some class, got none")
    each = [
        average_precision(column, wanted, eleven_points=eleven_points)
        for column, wanted in zip(scores.T, relevant.T.astype(bool), strict=True)
    ]
    return float(np.nanmean(each))
