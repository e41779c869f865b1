"""Few-shot accuracy against its definition, one draw at a time."""

import numpy as np
import pytest

from caco_jax.evaluation import few_shot, linear
from tests.evaluation.digits import pixels

SEEDS = (3, 1, 4)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    train_labels, test_labels = np.repeat([0, 1, 2], 10), rng.integers(0, 3, 40)
    centres = rng.standard_normal((3, 4))
    train, test = (
        centres[labels] + rng.standard_normal((len(labels), 4))
        for labels in (train_labels, test_labels)
    )
    return train, train_labels, test, test_labels


def test_draws_hold_the_shots_of_each_class_and_follow_the_seed():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 6))
    draws = [
        few_shot.draw_shots(labels, shots=3, seed=s, num_classes=4) for s in (0, 1)
    ]
    for rows in draws:
        assert len(set(rows.tolist())) == 12
        np.testing.assert_array_equal(labels[rows], np.repeat(np.arange(4), 3))
    again = few_shot.draw_shots(labels, shots=3, seed=0, num_classes=4)
    np.testing.assert_array_equal(draws[0], again)
    assert (draws[0] != draws[1]).any()


def test_each_seed_is_the_probe_fitted_to_its_draw(arrays):
    train, train_labels, test, test_labels = arrays
    got = few_shot.few_shot_accuracy(
        *arrays, shots=2, seeds=SEEDS, num_classes=3, l2=0.01
    )
    mean, scale = train.mean(axis=0), train.std(axis=0)
    want = []
    for seed in SEEDS:
        rows = few_shot.draw_shots(train_labels, shots=2, seed=seed, num_classes=3)
        weights, bias = linear.minimise(
            ((train[rows] - mean) / scale).astype(np.float32),
            train_labels[rows],
            num_classes=3,
            l2=0.01,
        )
        won = np.argmax((test - mean) / scale @ weights + bias[None], axis=1)
        want.append(np.mean(won == test_labels))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got.shape == (3,)
    assert len(set(got.tolist())) > 1, "the draws make no difference"


def test_all_rows_as_shots_is_the_linear_probe(arrays):
    got = few_shot.few_shot_accuracy(
        *arrays, shots=10, seeds=[0], num_classes=3, l2=0.01
    )
    model = linear.fit_logistic_regression(*arrays[:2], num_classes=3, l2=0.01)
    assert got == pytest.approx([linear.accuracy(model, *arrays[2:])])


def test_spread():
    spread = few_shot.spread(np.asarray([0.5, 0.7]))
    assert spread == pytest.approx((0.6, 0.1))
    assert few_shot.spread(np.asarray([0.4])).std == 0


def test_pixels_of_digits():
    got = few_shot.few_shot_accuracy(*pixels(), shots=3, seeds=range(5), num_classes=10)
    assert few_shot.spread(got).mean == pytest.approx(0.79, abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"shots": 11},
            "at least 11 .* class 0 with 10, class 1 with 10, class 2 with 10",
        ),
        (
            {"num_classes": 4},
            "at least 2 labelled rows of each class, got class 3 with 0",
        ),
        ({"shots": 0}, "shots: expected at least 1, got 0"),
        ({"seeds": ()}, "seeds: expected at least one"),
        ({"l2": -1}, "l2: .*got -1"),
        ({"num_classes": 2}, "classes 0 to 1, got 0 to 2"),
        ({"test_features": np.ones((40, 5))}, r"one width.*\(30, 4\) and \(40, 5\)"),
        ({"test_features": np.full((40, 4), np.inf)}, "finite numbers"),
        ({"train_labels": np.zeros(3, int)}, r"30 rows of features, got shape \(3,\)"),
    ],
)
def test_bad_input(arrays, change, message):
    names = ("train_features", "train_labels", "test_features", "test_labels")
    good = dict(zip(names, arrays, strict=True))
    good |= {"shots": 2, "seeds": SEEDS, "num_classes": 3}
    with pytest.raises(ValueError, match=message):
        few_shot.few_shot_accuracy(**(good | change))
