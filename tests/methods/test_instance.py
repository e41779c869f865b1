"""CLAE's Plain and UEL as methods."""

import numpy as np
import pytest

from caco_jax import methods
from caco_jax.methods.instance import UelConfig
from caco_jax.schema import ConfigError
from tests.methods.test_simclr import play, with_gradient

ROWS = np.random.default_rng(0).normal(size=(2, 4, 3))
UNIT = ROWS / np.linalg.norm(ROWS, axis=-1, keepdims=True)


def test_plain_looks_for_first_views_among_second_views_only():
    method = methods.plain(temperature=0.2)(3)
    scores = UNIT[0] @ UNIT[1].T / 0.2
    want = np.mean(np.log(np.exp(scores).sum(1)) - np.diag(scores))
    loss, _ = play(method, np.float32(UNIT))
    np.testing.assert_allclose(loss, want, rtol=1e-5)


@pytest.mark.parametrize("margin", [1.0, 2.5])
def test_uel_is_the_sum_over_twins_and_strangers(margin):
    method = methods.uel(temperature=0.4, negative_margin=margin)(3)
    rows, want = UNIT.reshape(8, 3), []
    for r in range(8):
        twin = (r + 4) % 8
        weight = np.exp(rows @ rows[r] / 0.4)
        others = [c for c in range(8) if c not in (r, twin)]
        total = weight[twin] + margin * weight[others].sum()
        strangers = np.log(1 - weight[others] / total).sum()
        want.append(-np.log(weight[twin] / total) - margin * strangers)
    loss, _ = play(method, np.float32(UNIT))
    np.testing.assert_allclose(loss, np.mean(want), rtol=1e-5)


def test_uels_gradient_stops_at_the_second_factor():
    method = methods.uel(temperature=1.0)(3)
    table = np.float32(UNIT)
    _, stopped = with_gradient(method, table)
    rows = UNIT.reshape(8, 3)

    def loss(moving):
        """Row 0 moves as a first factor; all second factors stay."""
        weight = np.exp(rows @ moving)
        total = weight[1:].sum()
        rejected = np.log(1 - np.delete(weight, [0, 4]) / total).sum()
        return (-np.log(weight[4] / total) - rejected) / 8

    step = 1e-6
    numeric = [
        (loss(rows[0] + step * axis) - loss(rows[0] - step * axis)) / (2 * step)
        for axis in np.eye(3)
    ]
    np.testing.assert_allclose(stopped[0, 0], numeric, rtol=1e-4, atol=1e-5)


def test_a_margin_below_one_is_refused():
    with pytest.raises(ConfigError, match="negative_margin: expected a number in"):
        UelConfig(negative_margin=0.5)
