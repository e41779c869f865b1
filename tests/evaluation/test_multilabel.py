"""The probe of several classes at once against scikit-learn's, one class at a time."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from caco_jax.evaluation import linear, multilabel

RANDOM = np.random.default_rng(0)
FEATURES = 2 * RANDOM.standard_normal((50, 4)) + 3
RELEVANT = (FEATURES @ RANDOM.standard_normal((4, 3)) + 3 > 3).astype(int)


def test_each_class_is_scikit_learns_regression():
    with jax.enable_x64(True):
        model = multilabel.fit_independent(FEATURES, RELEVANT, l2=0.02)
        scores = np.asarray(linear.scores(model, FEATURES))
    values = StandardScaler().fit_transform(FEATURES)
    for c in range(3):
        theirs = LogisticRegression(C=1 / (0.02 * 50), tol=1e-8)
        want = theirs.fit(values, RELEVANT[:, c]).decision_function(values)
        np.testing.assert_allclose(scores[:, c], want, rtol=1e-3, atol=2e-3)


def test_the_penalty_that_ranks_best_is_chosen():
    choice = multilabel.choose_l2(FEATURES, RELEVANT, grid=(1e-3, 0.1, 1e4))
    best = max(choice.accuracies.values())
    assert choice.accuracies[choice.l2] == best
    assert choice.l2 == max(l2 for l2, a in choice.accuracies.items() if a == best)
    assert choice == multilabel.choose_l2(FEATURES, RELEVANT, grid=(1e-3, 0.1, 1e4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relevant": RELEVANT[:9]}, r"\(50, 4\) and \(9, 3\)"),
        ({"relevant": 2 * RELEVANT}, "expected 0 or 1"),
        ({"features": np.full((50, 4), np.nan)}, "finite numbers"),
        ({"l2": -1.0}, "l2: expected a finite number >= 0"),
    ],
)
def test_bad_input(change, message):
    good = {"features": FEATURES, "relevant": RELEVANT}
    with pytest.raises(ValueError, match=message):
        multilabel.fit_independent(**(good | change))


@pytest.mark.parametrize("change", [{"grid": ()}, {"held_out": 0.0}, {"held_out": 1.0}])
def test_no_choice(change):
    with pytest.raises(ValueError, match="grid, held_out: expected a penalty or more"):
        multilabel.choose_l2(FEATURES, RELEVANT, **change)
