"""The table of one set of features, on the pixels of digits."""

import numpy as np
import pytest

from caco_jax.evaluation import few_shot, knn, linear, summary
from tests.evaluation.digits import pixels


def test_raw_pixels_have_the_figures_that_the_docstring_states():
    got = summary.evaluate_features(*pixels(), num_classes=10)
    assert list(got) == ["knn", "linear", "few_shot_mean", "few_shot_std"]
    assert got["knn"] == pytest.approx(0.976, abs=0.001)
    assert got["linear"] == pytest.approx(0.962, abs=0.005)
    assert got["few_shot_mean"] == pytest.approx(0.79, abs=0.01)
    assert got["few_shot_std"] == pytest.approx(0.026, abs=0.01)


def test_each_figure_is_its_own_protocol():
    train, labels, test, wanted = (part[:200] for part in pixels())
    got = summary.evaluate_features(
        5 * train, labels, 5 * test, wanted,
        num_classes=10, k=3, temperature=0.07, l2=0.1, shots=2, seeds=(8, 9),
    )  # fmt: skip
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
    neighbours = knn.knn_accuracy(
        unit[1], wanted, unit[0], labels, num_classes=10, settings=[(3, 0.07)]
    )
    model = linear.fit_logistic_regression(train, labels, num_classes=10, l2=0.1)
    few = few_shot.few_shot_accuracy(
        train, labels, test, wanted, shots=2, seeds=(8, 9), num_classes=10, l2=0.1
    )
    want = (*neighbours, linear.accuracy(model, test, wanted), few.mean(), few.std())
    assert tuple(got.values()) == pytest.approx(want, abs=1e-6)


def test_features_of_two_networks():
    train, labels, test, wanted = pixels()
    with pytest.raises(ValueError, match=r"one width.*\(1347, 64\) and \(450, 60\)"):
        summary.evaluate_features(train, labels, test[:, :60], wanted, num_classes=10)
