"""What weights of pairs care about, against loops and by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax import losses
from caco_jax.analysis import importance


@pytest.fixture(scope="module")
def unit():
    """Two views of twelve images as unit rows, in double precision."""
    with jax.enable_x64(True):
        z1, z2 = np.random.default_rng(0).standard_normal((2, 12, 5))
        yield losses.l2_normalize(jnp.asarray(z1)), losses.l2_normalize(jnp.asarray(z2))


@pytest.mark.parametrize("name", importance.SHAPES)
def test_pair_weights_are_the_importance_of_the_distances(unit, name):
    z, n = np.asarray(unit[0]), 12
    rule = losses.row_normalised(importance.SHAPES[name](0.3))
    with jax.enable_x64(True):
        got = np.asarray(importance.pair_weights(jnp.asarray(z), rule))
        squared = np.array([[0.5 * np.sum((a - b) ** 2) for b in z] for a in z])
        for i in range(n):
            others = [j for j in range(n) if j != i]
            want = np.asarray(rule(jnp.asarray(squared[i, others])[None, :]))[0]
            np.testing.assert_allclose(got[i, others], want, rtol=1e-9, atol=1e-12)
    assert not got.diagonal().any()
    np.testing.assert_allclose(got.sum(axis=1), 1)


def test_uniform_weights_see_no_classes_and_no_distances():
    n = 21
    alpha = jnp.full((n, n), 0.3)
    squared = jnp.asarray(np.random.default_rng(1).uniform(size=(n, n)))
    labels = np.arange(n) % 3
    found = importance.summarise_importance(alpha, squared, labels, hardest=0.1)
    assert found.effective_negatives == pytest.approx(n - 1)
    assert found.hardest_share == pytest.approx(0.1)
    assert found.same_class_share == pytest.approx(6 / 20)
    assert importance.chance_of_same_class(labels) == pytest.approx(6 / 20)


def test_a_summary_by_hand():
    # Rows of two classes; row 0 has all its weight on its twin, the nearest pair.
    alpha = jnp.asarray([[9.0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 4, 0]])
    squared = jnp.asarray(
        [[0.0, 0.1, 1, 1], [0.2, 0, 1, 1], [1, 1, 0, 1], [1, 1, 0.9, 0]]
    )
    found = importance.summarise_importance(
        alpha, squared, np.array([0, 0, 1, 1]), hardest=1 / 12
    )
    assert found.same_class_share == pytest.approx(7 / 8)  # all but the 1 to row 2
    assert found.hardest_share == pytest.approx(2 / 8)
    assert found.effective_negatives == pytest.approx((1 + 2 + 0 + 1) / 4)
    nameless = importance.summarise_importance(alpha, squared)
    assert math.isnan(nameless.same_class_share)
    assert math.isnan(importance.chance_of_same_class(None))


def test_a_lower_temperature_weighs_fewer_nearer_pairs(unit):
    squared = importance.squared_distances(unit[0])
    with jax.enable_x64(True):
        found = [
            importance.summarise_importance(weighing.alpha, squared, hardest=0.1)
            for weighing in importance.weigh_pairs(*unit, temperatures=(0.1, 1.0))
            if weighing.name == "exponential"
        ]
    cold, warm = found
    assert cold.effective_negatives < warm.effective_negatives < 11
    assert cold.hardest_share > warm.hardest_share > 0.1


def test_every_shape_and_every_member_is_weighed_at_every_temperature_it_has(unit):
    with jax.enable_x64(True):
        found = list(importance.weigh_pairs(*unit, temperatures=(0.2, 0.5)))
        info_nce = losses.FAMILIES["info_nce"](temperature=0.5)
        want = losses.pairwise_importance(*unit, info_nce)
    names = [weighing.name for weighing in found]
    assert names.count("direct") == names.count("member info_nce") == 2
    assert names.count("uniform") == names.count("member triplet") == 1
    assert {n for n in names if n.startswith("member ")} == {
        f"member {name}" for name in losses.FAMILIES
    }
    at = {(w.name, w.temperature): w.alpha for w in found}
    np.testing.assert_allclose(at["member info_nce", 0.5], want, rtol=1e-12)


def test_weights_by_distance_fall_where_the_shape_falls(unit):
    with jax.enable_x64(True):
        rule = losses.unnormalised(importance.SHAPES["exponential"](0.5))
        squared = importance.squared_distances(unit[0])
        alpha = importance.pair_weights(unit[0], rule)
        distances, weights = importance.weight_by_distance(alpha, squared, bins=6)
    assert np.all(np.diff(distances) > 0)
    assert np.all(np.diff(weights) < 0)
    assert np.mean(weights) == pytest.approx(1)  # 132 pairs, 22 in each bin


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        ([[0, 1.0], [math.nan, 0]], "row 1 has an entry that is not finite"),
        ([[0, math.inf], [1, 0]], "row 0 has an entry that is not finite"),
        ([[0, 1.0], [-1, 0]], "row 1 has a negative entry"),
        ([[0.0, 1, 2]], r"expected \[N, N\] with N at least 2, got shape \(1, 3\)"),
        ([[0.0]], r"expected \[N, N\] with N at least 2, got shape \(1, 1\)"),
        ([[0, 1], [1, 0]], "expected floats, got int"),
        ([[0.0, 0], [0, 0]], "expected some weight above 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(alpha, message):
    alpha = np.asarray(alpha)
    with pytest.raises(ValueError, match=message):
        importance.summarise_importance(alpha, np.ones(alpha.shape, np.float32))


def test_a_temperature_of_zero_is_refused_before_anything_is_weighed(unit):
    with pytest.raises(ValueError, match="temperature"):
        next(importance.weigh_pairs(*unit, temperatures=(0.5, 0.0)))
