"""The input adversary: the step that the formula states, and what it refuses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax import losses


def images():
    return np.random.default_rng(0).standard_normal((3, 2, 2, 1)).astype(np.float32)


def test_every_pixel_moves_by_epsilon_up_the_gradient():
    slopes = jnp.asarray([2.0, -1e-6, 0.0])
    x = jnp.asarray([0.5, 0.5, 0.5])
    got = losses.fgsm_perturb(lambda x: jnp.dot(slopes, x), x, epsilon=0.25)
    np.testing.assert_array_equal(got, [0.75, 0.25, 0.5])  # no slope, no step


def test_the_payoff_rises_and_nothing_is_clipped():
    x = images() * 10

    def payoff(x):
        return jnp.sum(jnp.square(x))

    moved = losses.fgsm_perturb(payoff, x, epsilon=0.03)
    np.testing.assert_allclose(np.abs(moved - x), 0.03, rtol=1e-4)
    assert payoff(moved) > payoff(x)
    assert np.abs(moved).max() > np.abs(x).max() > 1


def test_an_image_moves_through_the_other_images_negatives():
    x = images()
    flat = x.reshape(3, -1)
    anchors = flat / np.linalg.norm(flat, axis=1, keepdims=True)

    def payoff(x):
        z = losses.l2_normalize(x.reshape(3, -1))
        return losses.plain_loss(anchors, z, temperature=0.5)

    def of_the_first(first):
        return payoff(jnp.asarray(x).at[0].set(first))

    @jax.jit
    def attacks(x):
        together = losses.fgsm_perturb(payoff, x, epsilon=0.1)
        alone = losses.fgsm_perturb(of_the_first, x[0], epsilon=0.1)
        return together, alone, payoff(together) - payoff(x)

    together, alone, rise = jax.device_get(attacks(x))
    np.testing.assert_array_equal(together[0], alone)
    assert rise > 0


def test_the_result_is_a_constant():
    def through(x):
        return jnp.sum(
            losses.fgsm_perturb(lambda y: jnp.sum(y**3), x, epsilon=0.1) ** 2
        )

    assert not np.any(jax.grad(through)(images()))

    def of_radius(e):
        return jnp.sum(losses.fgsm_perturb(jnp.sum, images(), epsilon=e))

    assert jax.grad(of_radius)(0.1) == 0


def test_no_radius_no_step_and_the_dtype_stays():
    x = jnp.asarray(images(), jnp.bfloat16)
    moved = losses.fgsm_perturb(lambda x: jnp.sum(x * x), x, epsilon=0)
    assert moved.dtype == jnp.bfloat16
    assert jnp.array_equal(moved, x)


def test_it_compiles_with_a_traced_radius():
    step = jax.jit(lambda x, e: losses.fgsm_perturb(lambda x: jnp.sum(x), x, epsilon=e))
    np.testing.assert_allclose(step(images(), 0.5), images() + 0.5)


@pytest.mark.parametrize("epsilon", [-0.1, math.nan, math.inf])
def test_refuses_a_radius(epsilon):
    with pytest.raises(
        ValueError, match="epsilon: expected a finite number of at least 0"
    ):
        losses.fgsm_perturb(jnp.sum, images(), epsilon=epsilon)


def test_refuses_a_payoff_that_is_no_scalar():
    with pytest.raises(
        ValueError, match=r"payoff: expected a scalar, got shape \(3,\)"
    ):
        losses.fgsm_perturb(lambda x: x.sum((1, 2, 3)), images(), epsilon=0.1)


def test_refuses_integer_images():
    with pytest.raises(
        TypeError, match="images: expected floats to perturb, got uint8"
    ):
        losses.fgsm_perturb(jnp.sum, jnp.zeros((2, 2), np.uint8), epsilon=0.1)
