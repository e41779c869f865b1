"""Figures: written as PNG files, and showing what they were given."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from threadpoolctl import threadpool_limits

from caco_jax.analysis import plots

ROWS = [
    {"epoch": 1, "loss": 4.0, "bank_used_ever": 0.1, "bank_used_recently": 0.1},
    {
        "epoch": 2,
        "loss": 2.0,
        "knn": 0.5,
        "bank_used_ever": 0.6,
        "bank_used_recently": 0.4,
    },
    {"epoch": 3, "loss": 1.0, "knn": None, "bank_used_ever": 0.7},
    {"epoch": 4, "loss": 0.5, "knn": 0.75, "bank_used_recently": 0.2},
]


@pytest.fixture
def drawn(monkeypatch):
    """The figures saved, while they are still figures."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *args, **options: (
            figures.append(self) or save(self, *args, **options)
        ),
    )
    return figures


def lines(axis):
    return [list(zip(*line.get_data(), strict=True)) for line in axis.get_lines()]


def check_png(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
        assert len(image.convert("L").getcolors(256)) > 10  # not an empty sheet


def test_learning_curves_show_losses_and_the_epochs_that_were_judged(tmp_path, drawn):
    plots.plot_learning_curves(ROWS, tmp_path / "curves.png")
    check_png(tmp_path / "curves.png")
    left, right = drawn[0].axes
    assert lines(left) == [[(1, 4.0), (2, 2.0), (3, 1.0), (4, 0.5)]]
    assert lines(right) == [[(2, 0.5), (4, 0.75)]]
    assert left.get_xlabel() == right.get_xlabel() == "epoch"
    assert "loss" in left.get_ylabel()
    assert "kNN" in right.get_ylabel()


def test_a_run_that_was_never_judged_has_an_empty_panel(tmp_path, drawn):
    plots.plot_learning_curves(ROWS[:1], tmp_path / "curves.png")
    assert [len(lines(axis)) for axis in drawn[0].axes] == [1, 0]


def test_bank_use_shows_both_shares(tmp_path, drawn):
    plots.plot_bank_use(ROWS, tmp_path / "use.png", recent_steps=100)
    check_png(tmp_path / "use.png")
    (axis,) = drawn[0].axes
    assert lines(axis) == [
        [(1, 0.1), (2, 0.6), (3, 0.7)],
        [(1, 0.1), (2, 0.4), (4, 0.2)],
    ]
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == ["ever a positive", "within the last 100 steps"]
    assert axis.get_ylim() == (0, 1.05)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """t-SNE's threads wait for each other: on busy cores that takes minutes."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def clusters():
    """Two directions, 20 rows around each, in an order that mixes them."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1], 20))
    centres = np.eye(2, 6, dtype=np.float32)
    return centres[labels] + 0.02 * rng.standard_normal((40, 6)), labels


def points(axis):
    return [np.asarray(dots.get_offsets()) for dots in axis.collections]


def test_the_map_keeps_neighbours_together_and_names_the_classes(
    tmp_path, drawn, clusters
):
    for name in ("a.png", "b.png"):
        plots.plot_embedding_map(*clusters, tmp_path / name, class_names=("no", "yes"))
    check_png(tmp_path / "a.png")
    (axis,), (again,) = (figure.axes for figure in drawn)
    first, second = points(axis)
    assert (len(first), len(second)) == (20, 20)
    spread = max(first.std(axis=0).max(), second.std(axis=0).max())
    apart = np.abs(first.mean(axis=0) - second.mean(axis=0)).max()
    assert apart > 2 * spread
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    assert names == ["no", "yes"]
    # The seed is fixed: the same features give the same picture.
    np.testing.assert_array_equal(np.concatenate(points(again)), [*first, *second])


def test_labels_choose_colours_and_nothing_else(tmp_path, drawn, clusters):
    features, labels = clusters
    for which in (labels, np.zeros_like(labels)):
        plots.plot_embedding_map(features, which, tmp_path / "map.png", seed=3)
    two, one = (np.concatenate(points(figure.axes[0])) for figure in drawn)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(two, one[order])
    colours = [len(figure.axes[0].collections) for figure in drawn]
    assert colours == [2, 1]
    legend = drawn[0].axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["0", "1"]
