"""The pair-weight family: its table, its identity with the energy, its covariance."""

import functools
import math
from functools import partial

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from caco_jax import losses

# φ, ψ and their derivatives as the paper's table has them, at the defaults: τ 0.5 and
# ε, margin and scale 1.
TAU = 0.5


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _double_exp(x):
    return 2 * np.exp(2 * x)


TABLE = {
    "info_nce": (
        lambda x: TAU * np.log(1 + x),
        lambda x: np.exp(x / TAU),
        lambda x: TAU / (1 + x),
        _double_exp,
    ),
    "mine": (np.log, np.exp, lambda x: 1 / x, np.exp),
    "triplet": (
        lambda x: x,
        lambda x: np.maximum(x + 1, 0),
        np.ones_like,
        lambda x: 1.0 * (x + 1 > 0),
    ),
    "soft_triplet": (
        lambda x: TAU * np.log(1 + x),
        lambda x: np.exp(x / TAU + 1),
        lambda x: TAU / (1 + x),
        lambda x: np.exp(x / TAU + 1) / TAU,
    ),
    "tuplet": (lambda x: np.log(1 + x), np.exp, lambda x: 1 / (1 + x), np.exp),
    "lifted_structured": (
        lambda x: np.maximum(np.log(x), 0) ** 2,
        lambda x: np.exp(x + 1),
        lambda x: 2 * np.maximum(np.log(x), 0) / x,
        lambda x: np.exp(x + 1),
    ),
    "modified_triplet": (
        lambda x: x,
        _sigmoid,
        np.ones_like,
        lambda x: _sigmoid(x) * (1 - _sigmoid(x)),
    ),
    "triplet_contrastive": (lambda x: x, lambda x: x, np.ones_like, np.ones_like),
}
members = pytest.mark.parametrize("name", losses.FAMILIES)
few = hypothesis.settings(max_examples=5, derandomize=True, deadline=None)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def pair(n=5, d=3, dtype=np.float64):
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n, d)).astype(dtype) for _ in range(2))


def weights_of(n):
    return np.random.default_rng(1).uniform(size=(n, n))


# Whole functions are compiled here: alone, each operation would be compiled by itself.
@functools.partial(jax.jit, static_argnames=("name", "plain", "settings"))
def loss_and_importance(name, z1, z2, *, plain=False, settings=()):
    """Both of a member of the family, without its logarithmic form if `plain`."""
    family = losses.FAMILIES[name](**dict(settings))
    family = family._replace(log_form=None) if plain else family
    importance = losses.pairwise_importance(z1, z2, family)
    return losses.family_loss(z1, z2, family), importance


@functools.partial(jax.jit, static_argnames=("name", "settings"))
def loss_and_gradient(name, z1, z2, *, settings=()):
    family = losses.FAMILIES[name](**dict(settings))
    return jax.value_and_grad(losses.family_loss)(z1, z2, family)


energy = jax.jit(losses.contrastive_energy)
covariance = jax.jit(losses.contrastive_covariance)


def oracle(z1, z2, name):
    """The loss and every α_ij, by loops."""
    phi, psi, d_phi, d_psi = TABLE[name]
    loss, alpha = 0.0, np.zeros((len(z1), len(z1)))
    for i in range(len(z1)):
        own = ((z1[i] - z2[i]) ** 2).sum() / 2
        gaps = {
            j: own - ((z1[i] - z1[j]) ** 2).sum() / 2 for j in range(len(z1)) if j != i
        }
        total = np.asarray(sum(psi(np.asarray(g)) for g in gaps.values()))
        loss += phi(total)
        for j, gap in gaps.items():
            alpha[i, j] = d_phi(total) * d_psi(np.asarray(gap))
    return loss, alpha


def test_the_table_is_complete():
    assert set(TABLE) == set(losses.FAMILIES)
    assert all(make().name == name for name, make in losses.FAMILIES.items())


@members
@few
@hypothesis.given(n=st.sampled_from([2, 3, 6]), d=st.integers(1, 4))
def test_loss_and_importance_equal_a_loop(name, n, d):
    with jax.enable_x64(True):
        z1, z2 = pair(n, d)
        loss, alpha = loss_and_importance(name, z1, z2)
    want_loss, want_alpha = oracle(z1, z2, name)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(alpha, want_alpha, rtol=1e-10, atol=1e-13)
    assert not np.any(np.diagonal(alpha))


@members
def test_phi_and_psi_are_the_papers(name, x64):
    family, (phi, psi, *_) = losses.FAMILIES[name](), TABLE[name]
    x = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(jax.jit(family.psi)(x), psi(x), rtol=1e-12)
    x = np.linspace(0.1, 3, 9)
    np.testing.assert_allclose(jax.jit(family.phi)(x), phi(x), rtol=1e-12)


@members
def test_plain_and_logarithmic_forms_agree(name, x64):
    z1, z2 = pair()
    both = loss_and_importance(name, z1, z2)
    plain = loss_and_importance(name, z1, z2, plain=True)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11), both, plain)


@members
def test_the_loss_descends_where_the_energy_ascends(name, x64):
    """∇_θ L = -∇_θ E with α held, through a random two-layer network."""
    rng = np.random.default_rng(2)
    theta = {
        "first": rng.standard_normal((4, 6)),
        "bias": rng.standard_normal((1, 6)),
        "second": rng.standard_normal((6, 3)) / 2,
    }
    x1 = rng.standard_normal((7, 4))
    x2 = x1 + 0.3 * rng.standard_normal((7, 4))
    family = losses.FAMILIES[name]()

    def network(theta, x):
        return jnp.tanh(x @ theta["first"] + theta["bias"]) @ theta["second"]

    def loss(theta):
        return losses.family_loss(network(theta, x1), network(theta, x2), family)

    def energy(theta):
        z1, z2 = network(theta, x1), network(theta, x2)
        alpha = jax.lax.stop_gradient(losses.pairwise_importance(z1, z2, family))
        return losses.contrastive_energy(z1, z2, alpha)

    of_loss, of_energy = jax.jit(lambda x: (jax.grad(loss)(x), jax.grad(energy)(x)))(
        theta
    )
    for key, gradient in of_loss.items():
        assert np.abs(gradient).max() > 1e-3
        np.testing.assert_allclose(gradient, -of_energy[key], rtol=1e-9, atol=1e-9)


SMOOTH = sorted(set(losses.FAMILIES) - {"triplet", "lifted_structured"})


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[pytest.mark.slow] * (name not in ("info_nce", "mine"))
        )
        for name in SMOOTH
    ],
)
def test_gradients_to_second_order(name, x64):
    family = losses.FAMILIES[name]()
    loss = jax.jit(partial(losses.family_loss, family=family))
    check_grads(loss, tuple(pair(3, 2)), order=2, modes=["rev"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["triplet", "lifted_structured"])
def test_gradients_away_from_the_kink(name, x64):
    family = losses.FAMILIES[name](margin=20.0)
    loss = jax.jit(partial(losses.family_loss, family=family))
    check_grads(loss, tuple(pair(3, 2)), order=1, modes=["rev"])


def test_info_nce_importance_is_the_stated_softmax(x64):
    z1, z2 = pair()
    settings = ("temperature", 0.3), ("epsilon", 0.7)
    _, got = loss_and_importance("info_nce", z1, z2, settings=settings)
    apart = ((z1[:, None] - z1[None]) ** 2).sum(-1) / 2
    raw = np.exp(-apart / 0.3) * (1 - np.eye(5))
    own = 0.7 * np.exp(-((z1 - z2) ** 2).sum(1) / 2 / 0.3)
    np.testing.assert_allclose(got, raw / (own + raw.sum(1))[:, None], rtol=1e-10)


def test_values_by_hand_where_all_embeddings_are_equal():
    # Every gap is 0: ξ = 3 ψ(0), and four rows.
    z = np.ones((4, 2), np.float32)
    settings = ("temperature", 0.5), ("epsilon", 1.0)
    loss, alpha = loss_and_importance("info_nce", z, z, settings=settings)
    np.testing.assert_allclose(loss, 4 * 0.5 * np.log(4), rtol=1e-6)
    np.testing.assert_allclose(alpha, (1 - np.eye(4)) / 4, rtol=1e-6)
    mine, _ = loss_and_importance("mine", z, z)
    np.testing.assert_allclose(mine, 4 * np.log(3), rtol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_a_low_temperature_stays_finite(dtype, epsilon):
    """Gaps reach 2, and exp(2 / 0.02) is past float32; so is its inverse."""
    z = np.asarray([[1, 0], [1, 0.1], [-1, 0], [0, 1.0]])
    z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(dtype)
    z1, z2 = z, -z
    settings = ("temperature", 0.02), ("epsilon", epsilon)
    loss, gradient = loss_and_gradient("info_nce", z1, z2, settings=settings)
    _, alpha = loss_and_importance("info_nce", z1, z2, settings=settings)
    assert loss.dtype == alpha.dtype == np.float32
    assert np.isfinite(loss) and np.isfinite(alpha).all()
    assert np.isfinite(np.asarray(gradient, np.float32)).all()
    # The positive is opposite: the negatives take all of the weight.
    np.testing.assert_allclose(np.asarray(alpha).sum(1), 1, rtol=1e-4)
    settings = (("temperature", 0.02),)
    assert np.isfinite(loss_and_gradient("soft_triplet", z1, z2, settings=settings)[0])


@members
def test_zero_rows_give_no_nan(name):
    z1, z2 = pair(dtype=np.float32)
    z1[1] = z2[1] = 0
    loss, gradient = loss_and_gradient(name, z1, z2)
    assert np.isfinite(loss) and np.isfinite(gradient).all()


@members
def test_the_order_of_the_images_does_not_matter(name, x64):
    z1, z2 = pair()
    order = [3, 0, 4, 1, 2]
    _, moved = loss_and_importance(name, z1[order], z2[order])
    _, alpha = loss_and_importance(name, z1, z2)
    want = np.asarray(alpha)[order][:, order]
    np.testing.assert_allclose(moved, want, rtol=1e-9, atol=1e-12)


def test_a_newcomer_needs_only_phi_and_psi(x64):
    square = losses.Family("square", lambda x: 3 * x, lambda x: jnp.square(x + 9))
    z1, z2 = pair(2, 2)
    gap = ((z1 - z2) ** 2).sum(1) / 2 - ((z1[0] - z1[1]) ** 2).sum() / 2
    alpha = jax.jit(partial(losses.pairwise_importance, family=square))(z1, z2)
    np.testing.assert_allclose(
        alpha, [[0, 6 * (gap[0] + 9)], [6 * (gap[1] + 9), 0]], rtol=1e-12
    )


@pytest.mark.parametrize("name", ["info_nce", "triplet"])
def test_eight_devices_agree_with_one(name, devices):
    z1, z2 = pair(8, 4, np.float32)
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,), devices=devices)
    spread = jax.device_put((z1, z2), NamedSharding(mesh, P("data")))
    value, gradient = loss_and_gradient(name, *spread)
    want, want_gradient = loss_and_gradient(name, z1, z2)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-5, atol=1e-5)


# The energy and the covariance.


def covariance_oracle(x1, x2, alpha):
    total = np.zeros((x1.shape[1], x1.shape[1]))
    for i in range(len(x1)):
        own = np.outer(x1[i] - x2[i], x1[i] - x2[i])
        for j in range(len(x1)):
            apart = x1[i] - x1[j]
            total += (i != j) * alpha[i, j] * (np.outer(apart, apart) - own)
    return total


@few
@hypothesis.given(n=st.sampled_from([2, 5]), d=st.integers(1, 4))
def test_covariance_equals_a_loop_and_its_trace_is_twice_the_energy(n, d):
    with jax.enable_x64(True):
        (x1, x2), alpha = pair(n, d), weights_of(n)  # the diagonal is to be ignored
        got, payoff = covariance(x1, x2, alpha), energy(x1, x2, alpha)
    want = covariance_oracle(x1, x2, alpha)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(got, np.asarray(got).T, atol=1e-12)
    np.testing.assert_allclose(payoff, np.trace(want) / 2, rtol=1e-10, atol=1e-11)


def test_energy_is_a_payoff_of_the_weights_too(x64):
    z1, z2 = pair()
    alpha = weights_of(5)
    of_alpha = jax.grad(energy, argnums=2)(z1, z2, alpha)
    linear = energy(z1, z2, alpha)
    np.testing.assert_allclose(np.sum(alpha * of_alpha), linear, rtol=1e-12)


def test_covariance_keeps_its_digits_far_from_the_origin():
    x1, x2 = (x + 1000 for x in pair(dtype=np.float32))
    alpha = np.float32(weights_of(5))
    want = covariance_oracle(*(np.asarray(a, np.float64) for a in (x1, x2, alpha)))
    got = covariance(x1, x2, alpha)
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


# What is refused.


@pytest.mark.parametrize(
    "function", [losses.contrastive_energy, losses.contrastive_covariance]
)
@pytest.mark.parametrize("shape", [(5, 4), (4, 4), (5,)])
def test_refuses_weights_of_another_shape(function, shape):
    z1, z2 = pair(dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"alpha: expected one weight per pair, .*\(5, 5\)"
    ):
        function(z1, z2, np.ones(shape, np.float32))


@pytest.mark.parametrize("function", [losses.family_loss, losses.pairwise_importance])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((5, 3), (4, 3), r"one shape, got z1 \(5, 3\), z2 \(4, 3\)"),
        ((1, 3), (1, 3), "at least two pairs"),
        ((5, 0), (5, 0), "z1: expected a non-empty"),
    ],
)
def test_refuses_embeddings(function, first, second, message):
    mine = losses.FAMILIES["mine"]()
    with pytest.raises(ValueError, match=message):
        function(*(np.ones(s, np.float32) for s in (first, second)), mine)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("info_nce", {"temperature": 0.0}, "temperature: expected a finite number > 0"),
        (
            "info_nce",
            {"epsilon": -1.0},
            "epsilon: expected a finite number of at least 0",
        ),
        (
            "triplet",
            {"margin": math.nan},
            "margin: expected a finite number of at least 0",
        ),
        (
            "soft_triplet",
            {"temperature": -1},
            "temperature: expected a finite number > 0",
        ),
        ("lifted_structured", {"margin": -1}, "margin: expected a finite number"),
        ("modified_triplet", {"scale": 0}, "scale: expected a finite number > 0"),
    ],
)
def test_members_refuse_their_numbers(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        losses.FAMILIES[name](**arguments)
