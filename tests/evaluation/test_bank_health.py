"""A bank in numbers, against closed forms, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.special import softmax

from caco_jax.evaluation.bank_health import (
    DEAD_SHARE,
    bank_figures,
    chance_cosine,
    effective_directions,
    effective_number,
    row_turns,
)
from caco_jax.training.sharding import make_mesh

EYE = np.eye(4, dtype=np.float32)


def figures(queries, bank, **options):
    found = jax.jit(lambda q, b: bank_figures(q, b, **options))(queries, bank)
    return {name: float(value) for name, value in found.items()}


def test_rows_of_known_length_and_direction():
    bank = EYE * np.array([[1], [2], [3], [10]], np.float32)
    queries = np.array([[2, 0, 0, 0], [0, 3, 4, 0]], np.float32)
    found = figures(queries, bank)
    assert found["bank_row_length"] == pytest.approx(2.5)
    assert found["bank_directions"] == pytest.approx(4)  # lengths do not count
    assert found["bank_cosine"] == pytest.approx((1 + 0.8) / 2)
    assert found.keys() == {"bank_row_length", "bank_directions", "bank_cosine"}


def test_one_entry_does_all_or_all_share_alike():
    alone = figures(EYE[:1], EYE, temperature=0.01)
    assert alone["bank_effective_rows"] == pytest.approx(1, abs=1e-5)
    assert alone["bank_dead_share"] == 0.75
    even = figures(EYE, EYE, temperature=0.01)
    assert even["bank_effective_rows"] == pytest.approx(4, abs=1e-4)
    assert even["bank_dead_share"] == 0
    warm = figures(EYE[:1], EYE, temperature=1e4)
    assert warm["bank_effective_rows"] == pytest.approx(4, abs=1e-4)


@pytest.mark.parametrize("devices", [1, 8])
def test_figures_are_those_of_numpy_in_float64_however_rows_are_spread(devices):
    rng = np.random.default_rng(0)
    queries, bank = rng.normal(size=(5, 6)), rng.normal(size=(48, 6))
    units = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    rows = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    shares = softmax(units @ rows.T / 0.05, axis=1).mean(axis=0)
    values = np.linalg.svd(rows, compute_uv=False) ** 2 / 48
    expected = {
        "bank_row_length": np.median(np.linalg.norm(bank, axis=1)),
        "bank_directions": np.exp(-np.sum(values * np.log(values))),
        "bank_cosine": (units @ rows.T).max(axis=1).mean(),
        "bank_effective_rows": np.exp(-np.sum(shares * np.log(shares))),
        "bank_dead_share": np.mean(shares < DEAD_SHARE / 48),
    }
    with jax.enable_x64(True):
        spread = NamedSharding(make_mesh(jax.devices()[:devices]), P("data"))
        found = figures(queries, jax.device_put(bank, spread), temperature=0.05)
    assert 0 < found["bank_dead_share"] < 1
    assert found == pytest.approx(expected, rel=1e-12)


def test_effective_numbers_of_few_among_many():
    assert float(effective_number(jnp.array([0.5, 0.5, 0, 0]))) == pytest.approx(2)
    assert float(effective_number(jnp.array([3.0, 3.0, 3.0]))) == pytest.approx(3)
    flat = np.repeat(EYE[:2], 10, axis=0)  # ten rows each way, in a plane of four
    assert float(effective_directions(flat)) == pytest.approx(2, rel=1e-5)
    assert float(effective_directions(EYE[:1] * 7)) == pytest.approx(1, rel=1e-5)


def test_a_bank_of_zeros_has_no_direction():
    found = figures(EYE, np.zeros((3, 4), np.float32), temperature=0.1)
    assert found["bank_row_length"] == found["bank_cosine"] == 0
    assert found["bank_directions"] == 0
    assert found["bank_effective_rows"] == pytest.approx(3)


def test_a_row_turns_by_the_angle_between_before_and_after():
    bank = np.array([[2.0, 0], [0, 3.0], [1.0, 0], [1.0, 0], [0, 0]], np.float32)
    updates = np.array([[0, 2.0], [0, -1.0], [-2.0, 0], [0, 1e-5], [0, 0]], np.float32)
    expected = [45, 0, 180, np.degrees(1e-5), 0]  # across, along, through the middle
    np.testing.assert_allclose(row_turns(bank, updates), expected, rtol=1e-5)


def test_chance_is_the_median_of_the_nearest_of_random_directions():
    rng = np.random.default_rng(1)
    for rows, width in [(1, 8), (40, 4), (300, 16)]:
        draws = rng.normal(size=(800, rows, width))
        cosines = draws[..., 0] / np.linalg.norm(draws, axis=2)
        median = np.median(cosines.max(axis=1))
        assert chance_cosine(rows, width) == pytest.approx(median, abs=0.02)
    assert chance_cosine(2**16, 128) == pytest.approx(0.37, abs=0.02)
