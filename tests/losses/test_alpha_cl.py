"""Directly chosen pair weights: all shapes and normalisations, and those published."""

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

from caco_jax import losses
from caco_jax.losses import alpha_published

few = hypothesis.settings(max_examples=6, derandomize=True, deadline=None)
SHAPES = {
    "exponential": losses.exponential_shape(power=4, temperature=0.5),
    "inverse": losses.inverse_shape(power=2, temperature=0.4, exponent=2),
    "quadratic": losses.quadratic_shape(power=2, temperature=0.4),
    "logistic": losses.logistic_shape(temperature=0.4),
    "uniform": losses.uniform_shape(),
}
RAW = {  # the same on d², by the formula
    "exponential": lambda d2: np.exp(-(d2**2) / 0.5),
    "inverse": lambda d2: (d2 + 0.4) ** -2.0,
    "quadratic": lambda d2: np.stack([simplex_oracle(row, 0.4) for row in d2]),
    "logistic": lambda d2: 1 / (1 + np.exp(d2 / 0.4)) / (0.4 * d2.shape[1]),
    "uniform": lambda d2: np.full_like(d2, 1 / d2.shape[1]),
}
shapes = pytest.mark.parametrize("name", SHAPES)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def pair(n=4, d=3, dtype=np.float64):
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((n, d)).astype(dtype) for _ in range(2))


def distances():
    return np.random.default_rng(1).uniform(0, 2, (5, 7))


# Whole functions are compiled here: alone, each operation would be compiled by itself.
@functools.partial(jax.jit, static_argnames="importance")
def loss_of(z1, z2, importance, intra_weight=0.0):
    return losses.alpha_cl_loss(
        z1, z2, importance=importance, intra_weight=intra_weight
    )


@functools.partial(jax.jit, static_argnames="importance")
def gradients_of(z1, z2, importance):
    """The loss and its gradients for both views."""
    loss = partial(losses.alpha_cl_loss, importance=importance)
    return jax.value_and_grad(loss, (0, 1))(z1, z2)


ROW_NORMALISED = {name: losses.row_normalised(shape) for name, shape in SHAPES.items()}


def simplex_oracle(row, temperature):
    """max(level - d, 0) / τ with a sum of 1, the level found by bisection."""
    low, high = row.min(), row.max() + temperature
    for _ in range(200):
        level = (low + high) / 2
        if np.maximum(level - row, 0).sum() > temperature:
            high = level
        else:
            low = level
    return np.maximum(level - row, 0) / temperature


def terms_oracle(z1, z2, importance):
    """Both terms by a loop over views, with the weights of one row at a time."""
    views = [z / np.linalg.norm(z) for z in (*np.asarray(z1), *np.asarray(z2))]
    n, rows, own = len(z1), [], []
    for r in range(2 * n):
        twin = (r + n) % (2 * n)
        own.append(1 - views[r] @ views[twin])
        others = [c for c in range(2 * n) if c not in (r, twin)]
        rows.append([1 - views[r] @ views[c] for c in others])
    rows, own = np.array(rows), np.array(own)
    weights = importance(rows)
    inter = (weights * (own[:, None] - rows)).sum(1).mean()
    return inter, (own * weights.sum(1)).mean()


@shapes
def test_raw_weights_follow_the_formula(name, x64):
    got = jax.jit(losses.unnormalised(SHAPES[name]))(distances())
    np.testing.assert_allclose(got, RAW[name](distances()), rtol=1e-9)


@shapes
def test_normalisations(name, x64):
    d2, shape = distances(), SHAPES[name]
    raw = RAW[name](d2)
    rows = raw / (raw.sum(1, keepdims=True) + 0.1 * raw.shape[1])

    @jax.jit
    def normalised(d2):
        return (
            losses.row_normalised(shape, epsilon=0.1)(d2),
            losses.row_normalised(shape)(d2),
            losses.per_sample(shape)(d2),
            alpha_published.published_per_sample(shape)(d2),
        )

    got, whole, sample, published = jax.device_get(normalised(d2))
    np.testing.assert_allclose(got, rows, rtol=1e-9)
    np.testing.assert_allclose(whole.sum(1), 1, rtol=1e-12)
    share = raw.sum(1) / raw.sum(1).mean()
    np.testing.assert_allclose(sample, np.tile(share[:, None], (1, 7)), rtol=1e-9)
    np.testing.assert_allclose(published * 5, sample, rtol=1e-12)


@shapes
@pytest.mark.parametrize("intra_weight", [0.0, 0.3])
def test_loss_equals_a_loop(name, intra_weight, x64):
    z1, z2 = pair()
    got = loss_of(z1, z2, losses.unnormalised(SHAPES[name]), intra_weight)
    inter, intra = terms_oracle(z1, z2, RAW[name])
    np.testing.assert_allclose(got, inter + intra_weight * intra, rtol=1e-9)


@jax.jit
def direct(z1, z2, temperature):
    importance = losses.direct_importance(power=4, temperature=temperature)
    return losses.alpha_cl_loss(z1, z2, importance=importance)


@few
@hypothesis.given(n=st.sampled_from([2, 5]), temperature=st.floats(0.02, 2.0))
def test_direct_alpha_is_a_softmax_over_the_negatives(n, temperature):
    with jax.enable_x64(True):
        z1, z2 = pair(n)
        got = direct(z1, z2, temperature)

    def softmax(d2):
        e = np.exp(-(d2**2 - (d2**2).min(1, keepdims=True)) / temperature)
        return e / e.sum(1, keepdims=True)

    np.testing.assert_allclose(got, terms_oracle(z1, z2, softmax)[0], rtol=1e-9)


def differences(loss, z1, step=1e-5):
    """The gradient of a function of z1 by central differences."""
    gradient = np.zeros_like(z1)
    for at in np.ndindex(z1.shape):
        move = np.zeros_like(z1)
        move[at] = step
        gradient[at] = (loss(z1 + move) - loss(z1 - move)) / (2 * step)
    return gradient


def gradient_through(z1, z2, importance):
    """The gradient of z1, the weights being functions of it too."""
    loss = partial(
        losses.alpha_cl_loss,
        importance=importance,
        intra_weight=0.3,
        constant_weights=False,
    )
    return jax.jit(jax.grad(loss))(z1, z2)


@shapes
def test_a_gradient_flows_through_weights_that_are_no_constants(name, x64):
    z1, z2 = pair()

    def by_hand(z1):
        inter, intra = terms_oracle(z1, z2, RAW[name])
        return inter + 0.3 * intra

    importance = losses.unnormalised(SHAPES[name])
    got = gradient_through(z1, z2, importance)
    np.testing.assert_allclose(got, differences(by_hand, z1), rtol=1e-6, atol=1e-8)
    held = jax.grad(loss_of)(z1, z2, importance, 0.3)
    assert (np.abs(got - held).max() > 1e-3) == (name != "uniform")


@pytest.mark.parametrize(
    "normalise",
    [losses.row_normalised, losses.per_sample, partial(losses.low_rank, rank=2)],
)
def test_a_gradient_flows_through_every_normalisation(normalise, x64):
    z1, z2 = pair()
    importance = normalise(SHAPES["quadratic"])  # some of its weights are 0

    def by_definition(z1):
        inter, intra = terms_oracle(z1, z2, lambda d2: np.asarray(weigh(d2)))
        return inter + 0.3 * intra

    weigh = jax.jit(importance)
    got = gradient_through(z1, z2, importance)
    want = differences(by_definition, z1)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_negatives_that_coincide_have_finite_gradients(x64):
    z1 = np.ones((3, 2))
    for shape in (
        losses.exponential_shape(power=1, temperature=0.5),
        losses.quadratic_shape(power=1, temperature=0.5),
    ):
        got = gradient_through(z1, z1, losses.row_normalised(shape))
        assert np.isfinite(got).all()


def test_weights_are_constants(x64):
    z1, z2 = pair()
    importance = losses.direct_importance()
    weights = jax.jit(partial(losses.alpha_cl_weights, importance=importance))
    held = weights(z1, z2)
    assert held.shape == (8, 6)
    (_, chosen), (_, given) = (
        gradients_of(z1, z2, i) for i in (importance, losses.given_weights(held))
    )
    for a, b in zip(chosen, given, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_info_nce_weights_reproduce_its_gradient(x64):
    """The gradient of NT-Xent is that of α-CL with the weights e_rc / Z_r / τ."""
    z1, z2 = pair()
    tau = 0.5

    def energy(a, b):
        views = losses.l2_normalize(jnp.concatenate([a, b]))
        e = jnp.exp(views @ views.T / tau)
        z = e.sum(1) - jnp.diagonal(e)
        order = [[c for c in range(8) if c % 4 != r % 4] for r in range(8)]
        e_negative = jnp.take_along_axis(e, np.asarray(order), axis=1)
        weights = losses.given_weights(e_negative / z[:, None] / tau)
        return losses.alpha_cl_loss(a, b, importance=weights)

    of_energy = jax.jit(jax.grad(energy, argnums=(0, 1)))(z1, z2)
    nt_xent = jax.jit(jax.grad(partial(losses.nt_xent, temperature=tau), (0, 1)))
    for a, b in zip(of_energy, nt_xent(z1, z2), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_low_rank_is_the_best_approximation(x64):
    shape = losses.exponential_shape(power=2, temperature=0.5)
    raw = np.exp(-np.asarray(distances()) / 0.5)
    left, values, right = np.linalg.svd(raw, full_matrices=False)
    want = (left[:, :2] * values[:2]) @ right[:2]
    got = jax.jit(losses.low_rank(shape, rank=2))(distances())
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    whole = jax.jit(losses.low_rank(shape, rank=5))(distances())
    np.testing.assert_allclose(whole, raw)


@jax.jit
def assigned(rows, *, temperature):
    """The projection, and what the released code makes of it."""
    return (
        losses.simplex_assignment(rows, temperature=temperature),
        alpha_published.published_simplex_assignment(rows, temperature=temperature),
    )


@pytest.mark.parametrize("temperature", [0.01, 0.3, 20.0])
def test_simplex_assignment_is_a_projection(temperature, x64):
    rows = distances()
    got, published = jax.device_get(assigned(rows, temperature=temperature))
    want = [simplex_oracle(row, temperature) for row in rows]
    np.testing.assert_allclose(got, want, atol=1e-10)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-10)
    assert (published.sum(1) >= 1 - 1e-12).all()
    assert (published.sum(1) > 1 + 1e-6).any()


def test_a_fractional_power_of_rounding_noise_is_no_nan():
    shape = losses.exponential_shape(power=3, temperature=0.5)
    got = jax.jit(losses.unnormalised(shape))(np.float32([[-1e-7, 1.0]]))
    np.testing.assert_allclose(got, [[1.0, np.exp(-2)]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_a_low_temperature_stays_finite(dtype):
    """All raw weights underflow here; their shares do not."""
    z1 = jnp.asarray([[1, 0, 0], [-1, 0.1, 0], [0, 1, -1], [0, -1, 1]], dtype)
    importance = losses.direct_importance(power=4, temperature=0.005)
    value, (gradient, _) = gradients_of(z1, z1, importance)
    assert value.dtype == np.float32 and np.isfinite(value)
    assert np.isfinite(np.asarray(gradient, np.float32)).all()
    importance = losses.direct_importance(temperature=0.005)
    weights = jax.jit(partial(losses.alpha_cl_weights, importance=importance))(z1, z1)
    np.testing.assert_allclose(np.asarray(weights).sum(1), 1, rtol=1e-5)


@shapes
def test_zero_rows_give_no_nan(name):
    z1, z2 = pair(dtype=np.float32)
    z1[0] = 0
    value, (gradient, _) = gradients_of(z1, z2, ROW_NORMALISED[name])
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_swapping_the_views_changes_nothing(x64):
    z1, z2 = pair()
    loss = partial(loss_of, importance=losses.direct_importance())
    np.testing.assert_allclose(loss(z2, z1), loss(z1, z2), rtol=1e-12)


def test_value_by_hand():
    # Two pairs, views equal, images opposite: d+ = 0, both negatives at d² = 2.
    z = np.float32([[1.0, 0.0], [-1.0, 0.0]])
    loss = loss_of(z, z, losses.direct_importance())
    np.testing.assert_allclose(loss, -2.0, rtol=1e-6)


def test_nt_xent_with_intra(x64):
    z1, z2 = pair()
    plain = jax.jit(partial(losses.nt_xent, temperature=0.4))(z1, z2)
    with_intra = jax.jit(partial(losses.nt_xent_with_intra, temperature=0.4))
    np.testing.assert_allclose(with_intra(z1, z2), plain, rtol=1e-12)
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z1, z2)]
    want = (plain - 0.3 * (unit[0] * unit[1]).sum(1).mean() / 0.4) / 1.3
    np.testing.assert_allclose(with_intra(z1, z2, intra_weight=0.3), want, rtol=1e-12)
    same = np.ones((3, 2))  # all similarities 1: 5 candidates, and one constant 1
    more = with_intra(same, same, constants=(1.0,))
    np.testing.assert_allclose(more, np.log(6), rtol=1e-12)


@pytest.mark.parametrize("name", ["exponential", "quadratic"])
def test_eight_devices_agree_with_one(name, devices):
    z1, z2 = pair(8, 4, np.float32)
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,), devices=devices)
    spread = jax.device_put((z1, z2), NamedSharding(mesh, P("data")))
    value, (gradient, _) = gradients_of(*spread, ROW_NORMALISED[name])
    want, (want_gradient, _) = gradients_of(z1, z2, ROW_NORMALISED[name])
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(gradient, want_gradient, atol=1e-6)


def test_unit_without_projection_keeps_the_radial_gradient():
    x = np.float32([[3.0, 4.0], [0.0, 0.0]])

    @jax.jit
    def both_ways(x, cotangent):
        y, backward = jax.vjp(alpha_published.unit_without_projection, x)
        return y, backward(cotangent)[0]

    y, gradient = jax.device_get(both_ways(x, np.float32([[3.0, 4.0], [1.0, 0.0]])))
    np.testing.assert_allclose(y, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(gradient[0], [0.6, 0.8], rtol=1e-6)  # l2: zero
    assert np.isfinite(gradient).all()


def test_published_pair_weights_share_by_column(x64):
    f = pair()[0] / np.linalg.norm(pair()[0], axis=1, keepdims=True)
    published = partial(alpha_published.published_pair_weights, temperature=0.5)
    pair_weights, own = jax.device_get(jax.jit(published)(f))
    s = f @ f.T * (1 - np.eye(4))
    e = np.exp((s - s.max(1, keepdims=True)) / 0.5)
    want = e / e.sum(1)[None, :]
    np.testing.assert_allclose(own, 1 - np.diagonal(want), rtol=1e-7)
    np.testing.assert_allclose(pair_weights, want * (1 - np.eye(4)), rtol=1e-7)
    assert np.abs(pair_weights.sum(1) - own).max() > 1e-3  # rows do not match B


# What is refused.


def test_refuses_an_importance_of_another_shape():
    z1, z2 = pair(dtype=np.float32)
    with pytest.raises(
        ValueError,
        match=r"importance: expected one weight per negative, shape \(8, 6\)",
    ):
        losses.alpha_cl_loss(z1, z2, importance=lambda d2: d2[:, :1])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((5, 3), (4, 3), r"one shape, got z1 \(5, 3\), z2 \(4, 3\)"),
        ((1, 3), (1, 3), "at least two pairs"),
    ],
)
def test_refuses_embeddings(first, second, message):
    importance = losses.direct_importance()
    with pytest.raises(ValueError, match=message):
        loss_of(np.ones(first), np.ones(second), importance)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: losses.direct_importance(power=0),
            "power: expected a finite number > 0",
        ),
        (
            lambda: losses.direct_importance(temperature=math.nan),
            "temperature: expected a finite number > 0",
        ),
        (
            lambda: losses.row_normalised(SHAPES["uniform"], epsilon=-1),
            "epsilon: expected a finite number of at least 0",
        ),
        (
            lambda: losses.low_rank(SHAPES["uniform"], rank=0),
            "rank: expected a finite number of at least 1",
        ),
        (
            lambda: losses.inverse_shape(power=2, temperature=1, exponent=0),
            "exponent: expected a finite number > 0",
        ),
        (
            lambda: losses.alpha_cl_loss(
                *pair(dtype=np.float32),
                importance=losses.direct_importance(),
                intra_weight=-1,
            ),
            "intra_weight: expected a finite number of at least 0",
        ),
    ],
)
def test_refuses_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()
