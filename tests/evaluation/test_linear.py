"""The linear probe against scikit-learn, and its optimum against calculus."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from caco_jax.evaluation import linear
from tests.evaluation.digits import pixels

CLASSES = 3


@pytest.fixture(scope="module")
def arrays():
    """Overlapping classes of features with unlike scales; the last is constant."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 60)
    features = rng.standard_normal((60, 5)) + rng.standard_normal((CLASSES, 5))[labels]
    features = features * [1, 10, 0.01, 5, 1] + [0, 100, 3, -7, 0]
    features[:, 4] = 0.1
    return features, labels


def _probabilities(model, features):
    weights, bias, mean, scale = (np.asarray(part) for part in model)
    values = (features - mean) / scale
    logits = values @ weights + bias
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return values, exp / exp.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_scikit_learn_finds_the_same_optimum(arrays, l2):
    features, labels = arrays
    values = StandardScaler().fit_transform(features)
    theirs = LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-10, max_iter=5000)
    theirs.fit(values, labels)
    with jax.enable_x64(True):
        model = linear.fit_logistic_regression(
            features, labels, num_classes=CLASSES, l2=l2, tolerance=1e-9
        )
        assert all(part.dtype == np.float64 for part in model)
        won = linear.predict(model, features)
    np.testing.assert_allclose(model.weights.T, theirs.coef_, atol=1e-6)
    offset = (
        np.asarray(model.bias) - theirs.intercept_
    )  # scores fix it up to a constant
    np.testing.assert_allclose(offset, offset.mean(), atol=1e-6)
    np.testing.assert_array_equal(won, theirs.predict(values))


def test_the_gradient_vanishes_at_the_optimum(arrays):
    features, labels = arrays
    model = linear.fit_logistic_regression(
        features, labels, num_classes=CLASSES, l2=0.01
    )
    assert all(part.dtype == np.float32 for part in model)
    values, probabilities = _probabilities(model, features)
    excess = (probabilities - np.eye(CLASSES)[labels]) / len(labels)
    slope = values.T @ excess + 0.01 * np.asarray(model.weights)
    assert np.abs(slope).max() < 2e-5 and np.abs(excess.sum(axis=0)).max() < 2e-5
    assert np.abs(values).max() < 10  # the constant feature was not blown up


def test_units_of_the_features_do_not_matter(arrays):
    features, labels = arrays
    changed = features * [7, 0.1, 300, 1, 2] + [1, 2, 3, 4, 5]
    ours, theirs = (
        linear.fit_logistic_regression(x, labels, num_classes=CLASSES, l2=0.01)
        for x in (features, changed)
    )
    np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-3)
    assert linear.accuracy(ours, features, labels) == linear.accuracy(
        theirs, changed, labels
    )


def test_a_class_without_rows_is_never_predicted(arrays):
    features, labels = arrays
    labels = np.where(labels == 1, 2, labels)
    model = linear.fit_logistic_regression(features, labels, num_classes=CLASSES)
    assert set(np.unique(linear.predict(model, features))) == {0, 2}


def test_low_precision_features_are_fitted_in_float32(arrays):
    features, labels = arrays
    model = linear.fit_logistic_regression(
        jnp.asarray(features, jnp.bfloat16), labels, num_classes=CLASSES
    )
    assert all(part.dtype == np.float32 for part in model)


def test_pixels_of_digits():
    train, labels, test, wanted = pixels()
    model = linear.fit_logistic_regression(train, labels, num_classes=10)
    assert linear.accuracy(model, test, wanted) == pytest.approx(0.962, abs=0.005)
    values = StandardScaler().fit(train)
    theirs = LogisticRegression(C=1 / (linear.L2 * len(labels)), max_iter=2000)
    theirs.fit(values.transform(train), labels)
    score = theirs.score(values.transform(test), wanted)
    assert linear.accuracy(model, test, wanted) >= score - 0.005


def test_choose_l2_takes_the_best_and_in_doubt_the_largest(arrays):
    features, labels = arrays
    grid = (1e-3, 1e-2, 1e-1, 1e3)
    choice = linear.choose_l2(features, labels, num_classes=CLASSES, grid=grid)
    assert tuple(choice.accuracies) == grid
    best = max(choice.accuracies.values())
    assert choice.l2 == max(l2 for l2, a in choice.accuracies.items() if a == best)
    held_out = sum(int(0.2 * n) for n in np.bincount(labels))
    for share in choice.accuracies.values():
        assert share * held_out == pytest.approx(round(share * held_out))
    assert choice == linear.choose_l2(features, labels, num_classes=CLASSES, grid=grid)
    assert best > choice.accuracies[1e3]  # which knows only how large the classes are


def test_choose_l2_fits_the_rows_that_are_left(arrays):
    features, labels = arrays
    how = {"num_classes": CLASSES, "l2": 0.01}
    every = linear.fit_logistic_regression(features, labels, **how)
    tells = []
    for seed in range(4):
        out = linear._stratified(labels, 0.2, seed)
        np.testing.assert_array_equal(
            np.bincount(labels[out]), [int(0.2 * n) for n in np.bincount(labels)]
        )
        left = linear.fit_logistic_regression(features[~out], labels[~out], **how)
        choice = linear.choose_l2(
            features, labels, num_classes=CLASSES, grid=[0.01], seed=seed
        )
        wanted = linear.accuracy(left, features[out], labels[out])
        assert choice.accuracies[0.01] == wanted
        tells.append(wanted != linear.accuracy(every, features[out], labels[out]))
    assert any(tells)  # a fit of every row would be seen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 1}, "num_classes: expected at least 2, got 1"),
        ({"labels": np.ones(60, int)}, "at least two classes, got only 1"),
        ({"labels": np.full(60, 3)}, "classes 0 to 2, got 3 to 3"),
        ({"labels": np.zeros(59, int)}, r"60 rows of features, got shape \(59,\)"),
        ({"features": np.full((60, 2), np.nan)}, "finite numbers, got NaN or infinity"),
        (
            {"features": np.ones(60)},
            r"non-empty \[rows, dimensions\], got shape \(60,\)",
        ),
        ({"features": np.ones((0, 2))}, r"got shape \(0, 2\)"),
        ({"l2": -1.0}, r"l2: expected a finite number >= 0, got -1\.0"),
        ({"l2": float("nan")}, "l2: .*got nan"),
    ],
)
def test_bad_input(arrays, change, message):
    good = {"features": arrays[0], "labels": arrays[1], "num_classes": CLASSES}
    with pytest.raises(ValueError, match=message):
        linear.fit_logistic_regression(**(good | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": ()}, "grid: expected at least one penalty"),
        ({"grid": (0.1, -2)}, "l2: .*got -2"),
        ({"held_out": 0.0}, r"held_out: .*got 0\.0 of 60 rows"),
        ({"held_out": 1.0}, r"held_out: .*got 1\.0 of 60 rows"),
        ({"held_out": 0.001}, r"held_out: .*got 0\.001"),
    ],
)
def test_bad_choices(arrays, change, message):
    with pytest.raises(ValueError, match=message):
        linear.choose_l2(*arrays, num_classes=CLASSES, **change)


def test_one_class_leaves_no_choice(arrays):
    with pytest.raises(ValueError, match="at least two classes, got only 2"):
        linear.choose_l2(arrays[0], np.full(60, 2), num_classes=CLASSES)


def test_other_features_than_the_models(arrays):
    model = linear.fit_logistic_regression(*arrays, num_classes=CLASSES)
    with pytest.raises(ValueError, match=r"expected \[rows, 5\] .* got shape \(60, 4"):
        linear.accuracy(model, arrays[0][:, :4], arrays[1])
