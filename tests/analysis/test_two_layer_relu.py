"""Two-layer networks: fixed points, and what units keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax import losses
from caco_jax.analysis import two_layer_relu
from caco_jax.analysis.pairs import mixture_views, weighted_pairs

SEEDS = 64


@functools.cache
def game():
    """Inputs and weights of pairs, so scaled that the top eigenvalue of X_α is 1."""
    x1, x2 = mixture_views(jax.random.key(0), count=24, directions=6)
    pairs = weighted_pairs(x1, x2)
    top = np.linalg.eigvalsh(pairs.covariance)[-1]
    return pairs._replace(alpha=pairs.alpha / top)


@functools.cache
def rest(activation):
    return two_layer_relu.ascend(
        jax.random.split(jax.random.key(1), SEEDS),
        *game(),
        activation=activation,
        hidden=6,
        outputs=4,
        steps=2**13,
    )


@functools.partial(jax.jit, static_argnames="activation")
def projected_gradient(network, activation):
    """By the definition of the energy, on the spheres that the weights live on."""
    x1, x2, alpha = game()

    def energy(network):
        z1, z2 = (
            two_layer_relu.ACTIVATIONS[activation](x @ network.first.T)
            @ network.second.T
            for x in (x1, x2)
        )
        return losses.contrastive_energy(z1, z2, alpha)

    g = jax.grad(energy)(network)
    rows = g.first - jnp.sum(g.first * network.first, 1, keepdims=True) * network.first
    whole = g.second - jnp.sum(g.second * network.second) * network.second
    return jnp.sqrt(jnp.sum(rows**2) + jnp.sum(whole**2))


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_end_points_are_fixed_points_on_their_spheres(activation):
    with jax.enable_x64(True):
        found = rest(activation)
        first, second = found.networks
        np.testing.assert_allclose(jnp.linalg.norm(first, axis=2), 1)
        np.testing.assert_allclose(jnp.linalg.norm(second, axis=(1, 2)), 1)
        assert found.verified.sum() >= SEEDS // 2
        for i in np.flatnonzero(found.verified)[:8]:
            network = jax.tree.map(lambda leaf, i=i: leaf[i], found.networks)
            norm = projected_gradient(network, activation)
            assert norm <= two_layer_relu.FIXED
            assert norm == pytest.approx(found.gradient_norms[i], abs=1e-10)


def test_linear_networks_keep_one_pattern_relu_networks_several():
    with jax.enable_x64(True):
        linear, relu = rest("linear"), rest("relu")
        assert linear.verified.all()
        assert set(linear.ranks) == {1}
        top = np.linalg.eigh(game().covariance)[1][:, -1]
        np.testing.assert_allclose(np.abs(linear.networks.first @ top), 1, atol=1e-6)
        np.testing.assert_allclose(linear.energies, linear.energies[0])
    assert relu.verified_ranks.min() > 1
    assert relu.verified_ranks.max() >= 4
    best = relu.highest()
    assert two_layer_relu.ranks(best.first[None])[0] == relu.verified_ranks.max()
    assert set(relu.summary()) == {"energies", "gradient_norms", "ranks", "verified"}


def test_no_fixed_point_is_no_example():
    with jax.enable_x64(True):
        short = two_layer_relu.ascend(
            jax.random.split(jax.random.key(1), SEEDS),
            *game(),
            activation="relu",
            hidden=6,
            outputs=4,
            steps=1,
        )
    assert not short.verified.any()
    assert short.highest() is None


def test_concentration_and_coverage_by_hand():
    one_each = jnp.eye(3)
    assert two_layer_relu.concentration(one_each) == 1
    assert two_layer_relu.coverage(one_each) == 1
    same = jnp.asarray([[5.0, 0, 0], [2, 0, 0]])
    assert two_layer_relu.concentration(same) == 1
    assert two_layer_relu.coverage(same) == pytest.approx(1 / 3)
    mixed = jnp.asarray([[1.0, 3.0], [0.0, 0.0]])  # the second unit is dead
    assert two_layer_relu.concentration(mixed) == pytest.approx(0.75 / 2)
    assert two_layer_relu.coverage(mixed) == pytest.approx((0.25 + 0.75) / 2)
