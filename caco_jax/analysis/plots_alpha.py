"""Figures of pairwise importance, as PNG files."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from caco_jax.analysis.bank import BankMoves
from caco_jax.analysis.plots import COLOURS, MARKERS, new_figure, save

FLOOR = 1e-3  # limit of a logarithmic colour scale, relative to the mean weight


def plot_importance_maps(
    maps: Mapping[str, Float[np.ndarray, "n n"]],
    labels: Int[np.ndarray, " n"] | None,
    path: str | os.PathLike,
    *,
    class_names: Sequence[str] = (),
) -> None:
    """Weights of all pairs as heat maps, relative to a uniform weight.

    Args:
        maps: [N, N] weights by title; rows and columns are sorted by class.
        labels: [N] classes, for ticks and borders; None for none.
        path: the PNG file to write.
        class_names: names for the ticks.
    """
    from matplotlib.colors import LogNorm

    figure = new_figure(3.1 * len(maps) + 0.9, 3.4)
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for axis, (title, alpha) in zip(axes, maps.items(), strict=True):
        n = len(alpha)
        relative = alpha * (n * (n - 1) / alpha.sum())
        image = axis.imshow(
            np.where(np.eye(n, dtype=bool), np.nan, np.maximum(relative, FLOOR)),
            norm=LogNorm(FLOOR, 100),
            cmap="cividis",
            interpolation="none",
        )
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
        if labels is not None:
            _mark_classes(axis, labels, class_names)
    figure.colorbar(image, ax=axes, label="weight / mean weight", extend="both")
    save(figure, path)


def _mark_classes(axis: Any, labels: np.ndarray, names: Sequence[str]) -> None:
    classes, first, counts = np.unique(labels, return_index=True, return_counts=True)
    for start in first[1:]:
        axis.axhline(start - 0.5, color="white", linewidth=0.3)
        axis.axvline(start - 0.5, color="white", linewidth=0.3)
    middle = first + (counts - 1) / 2
    ticks = [names[c] if names else str(c) for c in classes]
    axis.set_xticks(middle, ticks, fontsize=8)
    axis.set_yticks(middle, ticks, fontsize=8)
    axis.tick_params(length=0)


class ShapeCurves(NamedTuple):
    """The curves of one importance shape, for a figure.

    Attributes:
        squared: squared distances of the bins.
        relative: mean weights in the bins, relative to the mean of all.
        temperatures: temperatures of the next two.
        same_class: share of weight on pairs of one class.
        effective: effective number of negatives.
    """

    squared: Float[np.ndarray, " b"]
    relative: Float[np.ndarray, " b"]
    temperatures: list[float]
    same_class: list[float]
    effective: list[float]


def plot_shapes(
    curves: Mapping[str, ShapeCurves],
    path: str | os.PathLike,
    *,
    chance: float,
    negatives: int,
    temperature: float,
) -> None:
    """Weight against distance; false negatives and effective negatives by temperature.

    Args:
        curves: by shape.
        path: the PNG file to write.
        chance: share of pairs that are of one class; NaN without labels.
        negatives: number of negatives of each sample.
        temperature: temperature of the first panel.
    """
    figure = new_figure(11, 3.6)
    left, middle, right = figure.subplots(1, 3)
    for i, (name, curve) in enumerate(curves.items()):
        style = {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 4,
        }
        left.plot(curve.squared, np.maximum(curve.relative, FLOOR), label=name, **style)
        middle.plot(curve.temperatures, curve.same_class, **style)
        right.plot(curve.temperatures, curve.effective, **style)
    left.set_yscale("log")
    left.set_xlabel("squared distance d² = 1 - cosine")
    left.set_ylabel("weight / mean weight")
    left.set_title(f"temperature {temperature:g}", fontsize=10)
    middle.axhline(chance, color="grey", linestyle=":")
    middle.set_ylabel("share of weight on pairs of one class")
    right.axhline(negatives, color="grey", linestyle=":")
    right.set_ylabel("effective negatives a sample")
    right.set_yscale("log")
    for axis in (middle, right):
        axis.set_xscale("log")
        axis.set_xlabel("temperature")
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    save(figure, path)


def plot_identity(
    errors: Mapping[str, Mapping[str, float]],
    path: str | os.PathLike,
    *,
    tolerance: float,
) -> None:
    """Relative error of the identity, a dot for every layer of every member.

    Args:
        errors: by member, then by layer.
        path: the PNG file to write.
        tolerance: shown as a line.
    """
    figure = new_figure(6, 3.4)
    axis = figure.subplots()
    for row, by_layer in enumerate(errors.values()):
        values = np.maximum(list(by_layer.values()), 1e-18)
        axis.scatter(values, np.full(len(values), row), s=14, alpha=0.6, color="C0")
    axis.axvline(tolerance, color=COLOURS[1], linestyle="--")
    axis.text(tolerance, -0.75, "tolerance ", color=COLOURS[1], ha="right", fontsize=9)
    axis.set_ylim(len(errors) - 0.5, -1.1)
    axis.set_yticks(range(len(errors)), [name.replace("_", " ") for name in errors])
    axis.set_xscale("log")
    axis.set_xlabel("largest difference / largest entry, by layer")
    axis.grid(alpha=0.3, axis="x")
    save(figure, path)


def plot_turns(
    curves: Mapping[str, Float[np.ndarray, " t"]], path: str | os.PathLike
) -> None:
    """The loss while the two players move in turns, and jointly.

    Args:
        curves: [T] losses before each move of the encoder, by name.
        path: the PNG file to write.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(6, 3.8)
    axis = figure.subplots()
    for i, (name, curve) in enumerate(curves.items()):
        joint = i == 0
        axis.plot(
            curve,
            color="0.75" if joint else COLOURS[(i - 1) % len(COLOURS)],
            linewidth=5 if joint else 1.5,
            linestyle="-" if i < 2 else ("--", "-.", ":")[i % 3],
            label=name,
        )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("moves of the encoder")
    axis.set_ylabel("InfoNCE per image")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    save(figure, path)


def plot_bank_pairs(moves: BankMoves, path: str | os.PathLike) -> None:
    """The importance of each bank entry, and the parts of its move.

    Args:
        moves: the two parts of the bank's move.
        path: the PNG file to write.
    """
    importance = sum(np.asarray(part.weights).sum(axis=0) for part in moves)
    cooperative, adversarial = (
        np.linalg.norm(np.asarray(part.move), axis=1) for part in moves
    )
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    share = np.sort(importance)[::-1] / importance.sum()
    left.plot(np.arange(1, len(share) + 1), share, color=COLOURS[0])
    left.axhline(1 / len(share), color="grey", linestyle=":", label="uniform")
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_ylim(max(share.max() * 1e-6, share[share > 0].min()), share.max() * 2)
    left.set_xlabel("entry, by rank")
    left.set_ylabel("share of all importance")
    left.legend(frameon=False)
    for i, (name, norms) in enumerate(
        {"cooperative": cooperative, "adversarial": adversarial}.items()
    ):
        felt = np.sort(norms[norms > 0])[::-1]
        label = f"{name}: {len(felt)} entries"
        ranks = np.arange(1, len(felt) + 1)
        right.plot(ranks, felt, color=COLOURS[i], ls=("-", "--")[i], label=label)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_ylim(1e-5 * max(cooperative.max(), adversarial.max()), None)
    right.set_xlabel("entry, by rank")
    right.set_ylabel("norm of the entry's move")
    right.legend(frameon=False)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    save(figure, path)
