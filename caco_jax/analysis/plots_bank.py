"""Figures of a bank or a queue over a run's checkpoints."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from caco_jax.analysis.plots import COLOURS, MARKERS, new_figure, save

LOWEST = 1e-3  # ratio of weights to their mean above which the axis is logarithmic


class History(NamedTuple):
    """Cosine similarities of a memory at each of R checkpoints.

    Attributes:
        epochs: [R].
        series: [R] cosines by name; NaN if missing.
    """

    epochs: Sequence[float]
    series: Mapping[str, Sequence[float]]


def plot_dynamics(
    history: History,
    uses: Int[np.ndarray, " k"],
    path: str | os.PathLike,
    *,
    by_age: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """How closely a memory follows the queries, and the use of its entries.

    Args:
        history: over the checkpoints.
        uses: [K] number of queries that each entry is nearest to, at the last
            checkpoint.
        path: the PNG file to write.
        by_age: for a queue: ages in steps, and the mean nearest cosine at each age.
    """
    from matplotlib.ticker import MaxNLocator

    panels = 2 if by_age is None else 3
    figure = new_figure(4.1 * panels, 3.6)
    left, middle, *rest = figure.subplots(1, panels)
    for i, (name, values) in enumerate(history.series.items()):
        left.plot(
            history.epochs,
            values,
            color=COLOURS[i],
            marker=MARKERS[i],
            markersize=5,
            label=name,
        )
    left.set_xlabel("epoch")
    left.set_ylabel("mean cosine")
    left.legend(frameon=False, fontsize=9)
    ordered = np.sort(uses)[::-1]
    unused = float(np.mean(uses == 0))
    middle.plot(
        np.linspace(0, 1, len(ordered)), ordered, color=COLOURS[0], drawstyle="steps"
    )
    middle.axvspan(1 - unused, 1, color=COLOURS[1], alpha=0.15, lw=0)
    middle.text(
        1 - unused / 2,
        0.5,
        f"{unused:.0%} unused",
        color=COLOURS[1],
        ha="center",
        va="center",
        rotation=90 if unused < 0.3 else 0,
        transform=middle.get_xaxis_transform(),
    )
    middle.set_yscale("symlog", linthresh=1)
    middle.set_ylim(0, None)
    middle.set_xlabel("entries by use, as a share")
    middle.set_ylabel("queries that an entry is nearest to")
    if by_age is not None:
        rest[0].plot(*by_age, color=COLOURS[0], marker=MARKERS[0], markersize=5)
        rest[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        rest[0].set_xlabel("age of the entry (steps)")
        rest[0].set_ylabel("mean cosine with the nearest query")
    for axis in (left, middle, *rest):
        axis.grid(alpha=0.3)
    save(figure, path)


def plot_density(
    densities: Mapping[str, Float[np.ndarray, " n"]],
    weights: Mapping[str, Float[np.ndarray, " n"]],
    correlations: Mapping[str, Mapping[str, float]],
    path: str | os.PathLike,
) -> None:
    """The weight of queries in each payoff, against their density.

    Args:
        densities: [N] log densities by name, one panel each.
        weights: [N] weights by payoff; they are scaled to mean 1.
        correlations: rank correlations, by density, then by payoff.
        path: the PNG file to write.
    """
    wide = max(weight.max() / weight.mean() for weight in weights.values()) > 5
    figure = new_figure(4.6 * len(densities), 3.8)
    axes = figure.subplots(1, len(densities), sharey=True, squeeze=False)[0]
    for axis, (density, logs) in zip(axes, densities.items(), strict=True):
        for i, (payoff, weight) in enumerate(weights.items()):
            found = correlations[density][payoff]
            axis.scatter(
                logs - logs.max(),
                weight / weight.mean(),
                s=9,
                alpha=0.5,
                color=COLOURS[i],
                marker=MARKERS[i],
                linewidths=0,
                label=f"{payoff}: rank correlation {found:+.2f}",
            )
        if wide:
            axis.set_yscale("log")
            axis.set_ylim(LOWEST, None)
        else:
            axis.set_ylim(0, None)
        axis.set_xlabel(f"log density of the query {density}, below the largest")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8, markerscale=2, loc="best")
    axes[0].set_ylabel("weight of the query / mean weight")
    save(figure, path)


def plot_gallery(
    rows: Sequence[tuple[str, UInt8[np.ndarray, "m h w c"]]], path: str | os.PathLike
) -> None:
    """Images in rows, each row with its title.

    Args:
        rows: titles and uint8 images.
        path: the PNG file to write.
    """
    columns = max(len(images) for _, images in rows)
    figure = new_figure(0.6 * columns + 1.6, 0.62 * len(rows), layout=None)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(left=1.55 / (0.6 * columns + 1.6), right=0.99)
    figure.subplots_adjust(bottom=0.01, top=0.99, wspace=0.08, hspace=0.08)
    for line, (title, images) in zip(grid, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, image in zip(line, images, strict=False):
            grey = image.shape[-1] == 1
            axis.imshow(image[..., 0] if grey else image, cmap="gray", vmin=0, vmax=255)
        line[0].text(
            -0.15,
            0.5,
            title,
            transform=line[0].transAxes,
            ha="right",
            va="center",
            fontsize=9,
        )
    save(figure, path)
