"""Figures of the two theories: deep linear networks and two-layer ReLU ones."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from caco_jax.analysis.plots import COLOURS, MARKERS, new_figure, save

SMALLEST = 1e-17  # of gaps: rounding


class AscentCurves(NamedTuple):
    """Energies of S starts over the steps, relative to the maximum.

    Attributes:
        steps: [R], the first is 0.
        gaps: [R, S] (½ λ - energy) / |½ λ|.
    """

    steps: Int[np.ndarray, " r"]
    gaps: Float[np.ndarray, "r s"]


def plot_pca(
    reached: Mapping[str, AscentCurves],
    tied: Float[np.ndarray, "s 2"],
    negative: Mapping[str, AscentCurves],
    path: str | os.PathLike,
) -> None:
    """The theorem, and two cases that violate a condition of it.

    Args:
        reached: curves by name, of inputs that the theorem applies to.
        tied: [S, 2] each product's direction in the plane of two tied eigenvectors.
        negative: curves by name, of inputs with a top eigenvalue below 0.
        path: the PNG file to write.
    """
    figure = new_figure(11.5, 3.8)
    left, middle, right = figure.subplots(1, 3)
    for i, (name, curves) in enumerate(reached.items()):
        _fan(left, curves.steps, np.maximum(curves.gaps, SMALLEST), i, name)
    left.set_yscale("log")
    left.set_ylabel("(maximum - energy) / maximum")
    left.set_title("all starts reach one energy", fontsize=10)
    left.legend(frameon=False, fontsize=8)

    circle = np.linspace(0, 2 * np.pi, 200)
    middle.plot(np.cos(circle), np.sin(circle), color="0.8")
    middle.scatter(*tied.T, s=14, color=COLOURS[1])
    middle.set_aspect("equal")
    middle.set_xlabel("first of the tied eigenvectors")
    middle.set_ylabel("second")
    middle.set_title("tied eigenvalues: any direction", fontsize=10)

    for i, (name, curves) in enumerate(negative.items()):
        _fan(right, curves.steps, -curves.gaps - 1, i, name)
    right.axhline(0, color="grey", linestyle=":")
    right.set_ylabel("energy / |½ top eigenvalue|")
    right.set_title("top eigenvalue below 0", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(0, None)
        axis.set_xlabel("steps")
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
    save(figure, path)


def _fan(axis: Any, steps: np.ndarray, values: np.ndarray, i: int, name: str) -> None:
    colour = COLOURS[i % len(COLOURS)]
    axis.fill_between(
        steps, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.2, lw=0
    )
    marker = MARKERS[i % len(MARKERS)]
    axis.plot(
        steps, np.median(values, axis=1), color=colour, label=name, marker=marker, ms=4
    )


def plot_fixed_points(
    ranks: Mapping[str, Int[np.ndarray, " s"]],
    example: Float[np.ndarray, "h d"],
    path: str | os.PathLike,
) -> None:
    """Ranks of the fixed points found, and one of them.

    Args:
        ranks: of the first layers, by activation.
        example: [h, d] the first layer at one fixed point.
        path: the PNG file to write.
    """
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    highest = max(int(values.max()) for values in ranks.values())
    width = 0.8 / len(ranks)
    for i, (name, values) in enumerate(ranks.items()):
        counts = np.bincount(values, minlength=highest + 1)[1:]
        at = np.arange(1, highest + 1) + (i - (len(ranks) - 1) / 2) * width
        left.bar(at, counts, width=width, color=COLOURS[i], label=name)
    left.set_xticks(range(1, highest + 1))
    left.set_xlabel("rank of the first layer")
    left.set_ylabel("verified fixed points")
    left.grid(alpha=0.3, axis="y")
    left.legend(frameon=False)
    shown = np.maximum(
        example, 0
    )  # the part of the weights that acts on inputs, which are at least 0
    image = right.imshow(shown, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    right.set_xlabel("input direction")
    right.set_ylabel("hidden unit")
    right.set_xticks(range(example.shape[1]))
    right.set_yticks(range(example.shape[0]))
    right.set_title(f"a ReLU fixed point of rank {highest}", fontsize=10)
    figure.colorbar(image, ax=right, label="weight, positive part")
    save(figure, path)


class Spread(NamedTuple):
    """Mean and standard deviation over seeds, at each hidden size."""

    mean: Sequence[float]
    std: Sequence[float]


def plot_units(
    hidden: Sequence[int],
    measures: Mapping[str, Mapping[str, Spread]],
    path: str | os.PathLike,
) -> None:
    """Measures of trained units over hidden sizes.

    Args:
        hidden: the sizes.
        measures: by measure, a panel each, then by set-up.
        path: the PNG file to write.
    """
    figure = new_figure(4.2 * len(measures) + 1.8, 3.6)
    axes = figure.subplots(1, len(measures), squeeze=False)[0]
    for axis, (measure, setups) in zip(axes, measures.items(), strict=True):
        for i, (name, spread) in enumerate(setups.items()):
            axis.errorbar(
                hidden,
                spread.mean,
                spread.std,
                color=COLOURS[i],
                marker=MARKERS[i],
                markersize=5,
                capsize=3,
                label=name if axis is axes[0] else None,
            )
        axis.set_xscale("log")
        axis.set_xticks(hidden, [str(h) for h in hidden])
        axis.minorticks_off()
        axis.set_xlabel("hidden units")
        axis.set_ylabel(measure)
        axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    save(figure, path)


def plot_covariances(
    steps: Int[np.ndarray, " r"],
    traces: Mapping[str, tuple[np.ndarray, np.ndarray]],
    path: str | os.PathLike,
) -> None:
    """Traces of the contrastive covariances during training.

    Args:
        steps: [R].
        traces: by set-up, [R, S] of C_inter and of C_intra; a panel each.
        path: the PNG file to write.
    """
    figure = new_figure(3.1 * len(traces), 3.2)
    axes = figure.subplots(1, len(traces), squeeze=False)[0]
    for axis, (name, pair) in zip(axes, traces.items(), strict=True):
        for i, (part, values) in enumerate(zip(("inter", "intra"), pair, strict=True)):
            low, middle, high = np.quantile(values, (0.1, 0.5, 0.9), axis=1)
            axis.fill_between(steps, low, high, color=COLOURS[i], alpha=0.2, lw=0)
            label = f"C_{part}" if axis is axes[0] else None
            axis.plot(steps, middle, color=COLOURS[i], ls=("-", "--")[i], label=label)
        axis.axhline(0, color="grey", linestyle=":")
        axis.set_yscale("symlog")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("steps")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("trace (median, 10 to 90 % of seeds)")
    axes[0].legend(frameon=False, fontsize=9)
    save(figure, path)
