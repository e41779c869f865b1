"""Figures of a run, as PNG files."""

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

Rows = Sequence[Mapping[str, Any]]

# The colour-blind safe palette of Okabe and Ito.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#F0E442",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def new_figure(width: float, height: float, *, layout: Any = "constrained") -> Any:
    """An empty figure; matplotlib is imported here, because that takes a second.

    Args:
        width: inches.
        height: inches.
        layout: layout engine; None: set by the caller.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def save(figure: Any, path: str | os.PathLike) -> None:
    """Writes a figure as a small PNG, of 128 colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    with Image.open(buffer) as image:
        few = image.convert("RGB").quantize(128, method=Image.Quantize.MEDIANCUT)
        few.save(path, optimize=True)


def _curve(axis: Any, rows: Rows, name: str, label: str) -> None:
    points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None)
    axis.set_xlabel("epoch")
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)


def plot_learning_curves(rows: Rows, path: str | os.PathLike) -> None:
    """Loss and kNN accuracy over epochs.

    Args:
        rows: a run's metric lines.
        path: the PNG file to write.
    """
    figure = new_figure(9, 3.5)
    left, right = figure.subplots(1, 2)
    _curve(left, rows, "loss", "loss (nats)")
    _curve(right, rows, "knn", "kNN accuracy, held-out images")
    figure.savefig(path, dpi=120)


def plot_bank_use(rows: Rows, path: str | os.PathLike, *, recent_steps: int) -> None:
    """Share of bank entries that served as positives, over epochs.

    Args:
        rows: a run's metric lines.
        path: the PNG file to write.
        recent_steps: number of steps that "recently" means, for the legend.
    """
    figure = new_figure(5, 3.5)
    axis = figure.subplots()
    _curve(axis, rows, "bank_used_ever", "share of bank entries")
    _curve(axis, rows, "bank_used_recently", "share of bank entries")
    axis.legend(["ever a positive", f"within the last {recent_steps} steps"])
    axis.set_ylim(0, 1.05)
    figure.savefig(path, dpi=120)


def flatten_features(
    features: Float[np.ndarray, "m f"], *, seed: int = 0
) -> Float[np.ndarray, "m 2"]:
    """Embeds features in two dimensions by t-SNE on cosine distances.

    Args:
        features: [M, F], M at least 2.
        seed: seed of t-SNE.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(features) - 1) / 3)
    # One thread: several spin while they wait, a hundred times slower on busy cores.
    with threadpool_limits(1):
        return TSNE(
            metric="cosine", init="random", random_state=seed, perplexity=perplexity
        ).fit_transform(features)


def plot_embedding_map(
    features: Float[np.ndarray, "m f"],
    labels: Int[np.ndarray, " m"],
    path: str | os.PathLike,
    *,
    class_names: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Embedding map: features in two dimensions by t-SNE, coloured by class.

    Args:
        features: [M, F].
        labels: [M] classes, used for colours only.
        path: the PNG file to write.
        class_names: names for the legend.
        seed: seed of t-SNE.
    """
    flat = flatten_features(features, seed=seed)
    figure = new_figure(6, 5)
    axis = figure.subplots()
    for label in np.unique(labels):
        name = class_names[label] if class_names else str(label)
        x, y = flat[labels == label].T
        axis.scatter(x, y, s=8, color=f"C{label % 10}", label=name)
    axis.legend(markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title("held-out images by t-SNE of their features", fontsize=10)
    figure.savefig(path, dpi=120)
