"""Directly chosen pair weights: all shapes and normalisations, and those published."""

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
    return tuple(jnp.asarray(rng.standard_normal((n, d)), dtype) for _ in range(2))


def distances():
    return jnp.asarray(np.random.default_rng(1).uniform(0, 2, (5, 7)))


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
    got = losses.unnormalised(SHAPES[name])(distances())
    np.testing.assert_allclose(got, RAW[name](np.asarray(distances())), rtol=1e-9)


@shapes
def test_normalisations(name, x64):
    d2 = distances()
    raw = RAW[name](np.asarray(d2))
    rows = raw / (raw.sum(1, keepdims=True) + 0.1 * raw.shape[1])
    got = losses.row_normalised(SHAPES[name], epsilon=0.1)(d2)
    np.testing.assert_allclose(got, rows, rtol=1e-9)
    whole = losses.row_normalised(SHAPES[name])(d2)
    np.testing.assert_allclose(whole.sum(1), 1, rtol=1e-12)
    share = raw.sum(1) / raw.sum(1).mean()
    sample = losses.per_sample(SHAPES[name])(d2)
    np.testing.assert_allclose(sample, np.tile(share[:, None], (1, 7)), rtol=1e-9)
    published = alpha_published.published_per_sample(SHAPES[name])(d2)
    np.testing.assert_allclose(published * 5, sample, rtol=1e-12)


@shapes
@pytest.mark.parametrize("intra_weight", [0.0, 0.3])
def test_loss_equals_a_loop(name, intra_weight, x64):
    z1, z2 = pair()
    got = losses.alpha_cl_loss(
        z1,
        z2,
        importance=losses.unnormalised(SHAPES[name]),
        intra_weight=intra_weight,
    )
    inter, intra = terms_oracle(z1, z2, RAW[name])
    np.testing.assert_allclose(got, inter + intra_weight * intra, rtol=1e-9)


@few
@hypothesis.given(n=st.sampled_from([2, 5]), temperature=st.floats(0.02, 2.0))
def test_direct_alpha_is_a_softmax_over_the_negatives(n, temperature):
    with jax.enable_x64(True):
        z1, z2 = pair(n)
        importance = losses.direct_importance(power=4, temperature=temperature)
        got = losses.alpha_cl_loss(z1, z2, importance=importance)

    def softmax(d2):
        e = np.exp(-(d2**2 - (d2**2).min(1, keepdims=True)) / temperature)
        return e / e.sum(1, keepdims=True)

    np.testing.assert_allclose(got, terms_oracle(z1, z2, softmax)[0], rtol=1e-9)


def test_weights_are_constants(x64):
    z1, z2 = pair()
    importance = losses.direct_importance()
    held = losses.alpha_cl_weights(z1, z2, importance=importance)
    assert held.shape == (8, 6)
    chosen, given = (
        jax.grad(partial(losses.alpha_cl_loss, importance=i), argnums=(0, 1))(z1, z2)
        for i in (importance, losses.given_weights(held))
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
        e_negative = jnp.take_along_axis(e, jnp.asarray(order), axis=1)
        weights = losses.given_weights(e_negative / z[:, None] / tau)
        return losses.alpha_cl_loss(a, b, importance=weights)

    of_energy = jax.grad(energy, argnums=(0, 1))(z1, z2)
    nt_xent = partial(losses.nt_xent, temperature=tau)
    for a, b in zip(of_energy, jax.grad(nt_xent, (0, 1))(z1, z2), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_low_rank_is_the_best_approximation(x64):
    shape = losses.exponential_shape(power=2, temperature=0.5)
    raw = np.exp(-np.asarray(distances()) / 0.5)
    left, values, right = np.linalg.svd(raw, full_matrices=False)
    want = (left[:, :2] * values[:2]) @ right[:2]
    got = losses.low_rank(shape, rank=2)(distances())
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(losses.low_rank(shape, rank=5)(distances()), raw)


@pytest.mark.parametrize("temperature", [0.01, 0.3, 20.0])
def test_simplex_assignment_is_a_projection(temperature, x64):
    rows = distances()
    got = losses.simplex_assignment(rows, temperature=temperature)
    want = [simplex_oracle(row, temperature) for row in np.asarray(rows)]
    np.testing.assert_allclose(got, want, atol=1e-10)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-10)
    published = alpha_published.published_simplex_assignment(
        rows, temperature=temperature
    )
    assert (published.sum(1) >= 1 - 1e-12).all()
    assert (published.sum(1) > 1 + 1e-6).any()


def test_a_fractional_power_of_rounding_noise_is_no_nan():
    shape = losses.exponential_shape(power=3, temperature=0.5)
    got = losses.unnormalised(shape)(jnp.asarray([[-1e-7, 1.0]]))
    np.testing.assert_allclose(got, [[1.0, np.exp(-2)]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_a_low_temperature_stays_finite(dtype):
    """All raw weights underflow here; their shares do not."""
    z1 = jnp.asarray([[1, 0, 0], [-1, 0.1, 0], [0, 1, -1], [0, -1, 1]], dtype)
    loss = partial(
        losses.alpha_cl_loss,
        importance=losses.direct_importance(power=4, temperature=0.005),
    )
    value, gradient = jax.value_and_grad(loss)(z1, z1)
    assert value.dtype == np.float32 and np.isfinite(value)
    assert np.isfinite(np.asarray(gradient, np.float32)).all()
    weights = losses.alpha_cl_weights(
        z1, z1, importance=losses.direct_importance(temperature=0.005)
    )
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)


@shapes
def test_zero_rows_give_no_nan(name):
    z1, z2 = pair(dtype=np.float32)
    loss = partial(losses.alpha_cl_loss, importance=losses.row_normalised(SHAPES[name]))
    value, gradient = jax.value_and_grad(loss)(z1.at[0].set(0), z2)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_swapping_the_views_changes_nothing(x64):
    z1, z2 = pair()
    loss = partial(losses.alpha_cl_loss, importance=losses.direct_importance())
    np.testing.assert_allclose(loss(z2, z1), loss(z1, z2), rtol=1e-12)


def test_value_by_hand():
    # Two pairs, views equal, images opposite: d+ = 0, both negatives at d² = 2.
    z = jnp.asarray([[1.0, 0.0], [-1.0, 0.0]])
    loss = losses.alpha_cl_loss(z, z, importance=losses.direct_importance())
    np.testing.assert_allclose(loss, -2.0, rtol=1e-6)


def test_nt_xent_with_intra(x64):
    z1, z2 = pair()
    plain = losses.nt_xent(z1, z2, temperature=0.4)
    base = partial(losses.nt_xent_with_intra, z1, z2, temperature=0.4)
    np.testing.assert_allclose(base(), plain, rtol=1e-12)
    cosine = (losses.l2_normalize(z1) * losses.l2_normalize(z2)).sum(1).mean()
    want = (plain - 0.3 * cosine / 0.4) / 1.3
    np.testing.assert_allclose(base(intra_weight=0.3), want, rtol=1e-12)
    same = jnp.ones((3, 2))  # all similarities 1: 5 candidates, and one constant 1
    more = losses.nt_xent_with_intra(same, same, temperature=0.4, constants=(1.0,))
    np.testing.assert_allclose(more, np.log(6), rtol=1e-12)


@pytest.mark.parametrize("name", ["exponential", "quadratic"])
def test_eight_devices_agree_with_one(name, devices):
    z1, z2 = pair(8, 4, np.float32)
    loss = jax.value_and_grad(
        partial(losses.alpha_cl_loss, importance=losses.row_normalised(SHAPES[name]))
    )
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,), devices=devices)
    spread = jax.device_put((z1, z2), NamedSharding(mesh, P("data")))
    value, gradient = jax.jit(loss)(*spread)
    want, want_gradient = loss(z1, z2)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(gradient, want_gradient, atol=1e-6)


def test_unit_without_projection_keeps_the_radial_gradient():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    y, backward = jax.vjp(alpha_published.unit_without_projection, x)
    np.testing.assert_allclose(y, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    (gradient,) = backward(jnp.asarray([[3.0, 4.0], [1.0, 0.0]]))
    np.testing.assert_allclose(gradient[0], [0.6, 0.8], rtol=1e-6)  # l2: zero
    assert np.isfinite(gradient).all()


def test_published_pair_weights_share_by_column(x64):
    f = losses.l2_normalize(pair()[0])
    pair_weights, own = alpha_published.published_pair_weights(f, temperature=0.5)
    s = np.asarray(f @ f.T) * (1 - np.eye(4))
    e = np.exp((s - s.max(1, keepdims=True)) / 0.5)
    want = e / e.sum(1)[None, :]
    np.testing.assert_allclose(own, 1 - np.diagonal(want), rtol=1e-7)
    np.testing.assert_allclose(pair_weights, want * (1 - np.eye(4)), rtol=1e-7)
    assert np.abs(pair_weights.sum(1) - own).max() > 1e-3  # rows do not match B


# What is refused.


def test_refuses_an_importance_of_another_shape():
    z1, z2 = pair(dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"importance: want one weight per negative, shape \(8, 6\)"
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
        losses.alpha_cl_loss(jnp.ones(first), jnp.ones(second), importance=importance)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.direct_importance(power=0), "power: want a finite number > 0"),
        (
            lambda: losses.direct_importance(temperature=math.nan),
            "temperature: want a finite number > 0",
        ),
        (
            lambda: losses.row_normalised(SHAPES["uniform"], epsilon=-1),
            "epsilon: want a finite number of at least 0",
        ),
        (
            lambda: losses.low_rank(SHAPES["uniform"], rank=0),
            "rank: want a finite number of at least 1",
        ),
        (
            lambda: losses.inverse_shape(power=2, temperature=1, exponent=0),
            "exponent: want a finite number > 0",
        ),
        (
            lambda: losses.alpha_cl_loss(
                *pair(dtype=np.float32),
                importance=losses.direct_importance(),
                intra_weight=-1,
            ),
            "intra_weight: want a finite number of at least 0",
        ),
    ],
)
def test_refuses_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()
