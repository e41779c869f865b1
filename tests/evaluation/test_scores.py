"""Accuracies, intervals and average precisions against definitions and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, top_k_accuracy_score

from caco_jax.evaluation import scores


def random_scores(seed, rows=40, classes=7):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, classes)), rng.integers(0, classes - 1, rows)


def test_accuracies_against_scikit_learn():
    values, labels = random_scores(0)
    found = scores.accuracies(values, labels)
    classes = np.arange(7)
    for k, share in ((1, found.top1), (5, found.top5)):
        assert share == top_k_accuracy_score(labels, values, k=k, labels=classes)
    for c in range(6):
        own = values[labels == c].argmax(axis=1) == c
        assert found.by_class[c] == pytest.approx(own.mean())
    assert np.isnan(found.by_class[6])  # no row of it
    assert found.interval.low < found.top1 < found.interval.high


def test_ties_go_to_the_lowest_class_and_what_is_no_number_is_wrong():
    values = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [np.nan, 0.0, 0.0]])
    np.testing.assert_array_equal(
        scores.label_places(values, np.array([0, 1, 0])), [0, 1, 3]
    )


def test_the_interval_of_a_share_is_the_binomials():
    right = np.arange(400) < 100
    low, high = scores.bootstrap_interval(lambda rows: right[rows].mean(), 400)
    deviation = np.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - 1.96 * deviation, abs=0.006)
    assert high == pytest.approx(0.25 + 1.96 * deviation, abs=0.006)
    narrow = scores.bootstrap_interval(lambda r: right[r].mean(), 400, level=0.5)
    assert low < narrow.low < narrow.high < high
    assert narrow == scores.bootstrap_interval(
        lambda r: right[r].mean(), 400, level=0.5
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_average_precision_against_scikit_learn(seed, ties):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, 20) / 4 if ties else rng.standard_normal(20)
    relevant = rng.integers(0, 2, 20).astype(bool)
    relevant[3] = True
    assert scores.average_precision(values, relevant) == pytest.approx(
        average_precision_score(relevant, values)
    )


def test_the_eleven_points_by_hand():
    # Ranked: hit, miss, hit, miss: precision 1, 1/2, 2/3, 1/2 at recall ½, ½, 1, 1.
    values, relevant = np.array([4.0, 3, 2, 1]), np.array([1, 0, 1, 0], bool)
    got = scores.average_precision(values, relevant, eleven_points=True)
    assert got == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_the_mean_leaves_out_classes_without_rows():
    values = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.0]])
    relevant = np.array([[1, 0, 0], [0, 1, 0]])
    assert scores.mean_average_precision(values, relevant) == 1
    relevant = relevant[::-1]
    assert scores.mean_average_precision(values, relevant) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: scores.accuracies(np.zeros((3, 2)), np.zeros(2, int)),
            r"\(3, 2\) and \(2,\)",
        ),
        (
            lambda: scores.accuracies(np.zeros((2, 2)), np.array([0, 2])),
            "classes 0 to 1, got 0 to 2",
        ),
        (
            lambda: scores.bootstrap_interval(len, 0),
            "count: expected at least 1, got 0",
        ),
        (
            lambda: scores.bootstrap_interval(len, 3, draws=0),
            "draws: expected at least 1, got 0",
        ),
        (
            lambda: scores.bootstrap_interval(len, 3, level=1),
            r"level: expected a number in \(0, 1\), got 1",
        ),
        (
            lambda: scores.mean_average_precision(np.zeros((2, 3)), np.zeros((2, 2))),
            r"\(2, 3\) and \(2, 2\)",
        ),
        (
            lambda: scores.mean_average_precision(np.zeros((2, 3)), np.zeros((2, 3))),
            "labels: expected a row of some class, got none",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
