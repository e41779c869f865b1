"""Ranks, spreads and entropies against values known beforehand."""

import jax
import numpy as np
import pytest

from caco_jax.evaluation import health


def sphere(rows, width, seed=0):
    values = np.random.default_rng(seed).standard_normal((rows, width))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_the_rank_counts_equal_directions():
    assert health.effective_rank(np.eye(5)[:3]) == pytest.approx(3)
    assert health.effective_rank(np.ones((7, 4))) == pytest.approx(1)
    uneven = health.effective_rank(np.diag([8.0, 1.0, 1.0]))
    assert uneven == pytest.approx(np.exp(-(0.8 * np.log(0.8) + 0.2 * np.log(0.1))))
    assert health.effective_rank(3 * sphere(50, 6)) == pytest.approx(
        health.effective_rank(sphere(50, 6)), rel=1e-5
    )


def test_the_deviation_is_1_on_the_sphere_and_0_at_a_point():
    assert health.feature_deviation(5 * sphere(4000, 8)) == pytest.approx(1, abs=0.02)
    assert health.feature_deviation(np.ones((9, 3))) == pytest.approx(0, abs=1e-6)


def test_alignment_is_the_squared_distance_of_directions():
    views = sphere(20, 3), sphere(20, 3, seed=1)
    want = np.mean(np.sum((views[0] - views[1]) ** 2, axis=1))
    assert health.alignment(2 * views[0], views[1]) == pytest.approx(want, rel=1e-5)
    assert health.alignment(views[0], 7 * views[0]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [2.0, 0.5])
def test_uniformity_against_all_pairs(scale):
    rows = sphere(30, 4)
    pairs = [
        np.exp(-scale * np.sum((rows[i] - rows[j]) ** 2))
        for i in range(30)
        for j in range(30)
        if i != j
    ]
    with jax.enable_x64(True):
        got = health.uniformity(rows, scale=scale)
    assert got == pytest.approx(np.log(np.mean(pairs)), rel=1e-10)


def test_uniformity_walks_in_blocks():
    rows = sphere(30, 4)
    want = health.uniformity(rows)
    assert health.uniformity(rows, block_rows=7) == pytest.approx(want, rel=1e-5)


def test_the_entropy_of_use():
    assert health.use_entropy(np.array([5, 5, 5])) == pytest.approx(1)
    assert health.use_entropy(np.array([0, 9, 0])) == 0
    assert health.use_entropy(np.array([1, 1, 0, 0])) == pytest.approx(0.5)


def test_the_nearest_cosine():
    bank = np.array([[2.0, 0.0], [0.0, 3.0]])
    queries = np.array([[1.0, 1.0], [0.0, 4.0]])
    mean, chosen = health.nearest_cosine(queries, bank)
    assert mean == pytest.approx((np.sqrt(0.5) + 1) / 2)
    np.testing.assert_array_equal(chosen, [0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: health.effective_rank(np.zeros((3, 2))), "some that are not zero"),
        (lambda: health.effective_rank(np.full((3, 2), np.nan)), "finite numbers"),
        (lambda: health.uniformity(np.ones((1, 2))), "at least 2 rows, got 1"),
        (
            lambda: health.alignment(np.ones((3, 2)), np.ones((2, 2))),
            r"\(3, 2\) and \(2, 2\)",
        ),
        (lambda: health.use_entropy(np.zeros(3)), "3 entries chosen 0 times"),
        (lambda: health.use_entropy(np.ones(1)), "1 entries chosen 1 times"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
