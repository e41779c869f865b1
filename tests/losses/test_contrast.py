"""The contrastive losses against float64 loops, hand values, and their symmetries."""

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
from caco_jax.losses.contrast import split_pairs, without_diagonal
from tests.losses import bank_oracle

PAIR_LOSSES = {
    "nt_xent": losses.nt_xent,
    "plain": losses.plain_loss,
    "uel": partial(losses.uel_loss, negative_margin=1),
    "uel_margin_2": partial(losses.uel_loss, negative_margin=2),
}
pair_losses = pytest.mark.parametrize("name", PAIR_LOSSES)


# Whole functions are compiled here: alone, each operation would be compiled by itself.
@functools.partial(jax.jit, static_argnames="name")
def loss_of(name, z1, z2, *, temperature):
    return PAIR_LOSSES[name](z1, z2, temperature=temperature)


@functools.partial(jax.jit, static_argnames="name")
def moves_of(name, z1, z2, *, temperature):
    """The loss and its gradients for both views."""
    loss = partial(PAIR_LOSSES[name], temperature=temperature)
    return jax.value_and_grad(loss, (0, 1))(z1, z2)


info_nce, moco_loss, nt_xent, plain_loss, uel_loss, l2_normalize = (
    jax.jit(function)
    for function in (
        losses.info_nce,
        losses.moco_loss,
        losses.nt_xent,
        losses.plain_loss,
        losses.uel_loss,
        losses.l2_normalize,
    )
)


def unit_rows(seed, n, d):
    x = np.random.default_rng(seed).standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


# Oracles: loops over rows in float64.


def _cross_entropy(logits, label):
    logits = np.asarray(logits) - np.max(logits)
    return math.log(np.exp(logits).sum()) - logits[label]


def info_nce_oracle(queries, keys, negatives, temperature):
    return np.array(
        [
            _cross_entropy([q @ w / temperature for w in (k, *negatives)], 0)
            for q, k in zip(queries, keys, strict=True)
        ]
    )


def nt_xent_oracle(z1, z2, temperature):
    views = [z / np.linalg.norm(z) for z in (*z1, *z2)]
    n, total = len(z1), 0.0
    for r in range(2 * n):
        others = [c for c in range(2 * n) if c != r]
        logits = [views[r] @ views[c] / temperature for c in others]
        total += _cross_entropy(logits, others.index((r + n) % (2 * n)))
    return total / (2 * n)


def plain_oracle(z1, z2, temperature):
    rows = [
        _cross_entropy([a @ b / temperature for b in z2], i) for i, a in enumerate(z1)
    ]
    return np.mean(rows)


def uel_oracle(z1, z2, temperature, margin):
    views, n, total = [*z1, *z2], len(z1), 0.0
    for r in range(2 * n):
        twin = (r + n) % (2 * n)
        e = [math.exp(views[r] @ v / temperature) for v in views]
        negatives = [e[c] for c in range(2 * n) if c not in (r, twin)]
        z = e[twin] + margin * sum(negatives)
        total += math.log(e[twin] / z)
        total += margin * sum(math.log(1 - x / z) for x in negatives)
    return -total / (2 * n)


ORACLES = {
    "nt_xent": nt_xent_oracle,
    "plain": plain_oracle,
    "uel": partial(uel_oracle, margin=1),
    "uel_margin_2": partial(uel_oracle, margin=2),
}
SHAPES = st.tuples(st.sampled_from([2, 3, 7]), st.sampled_from([1, 2, 5]))
few = hypothesis.settings(max_examples=6, derandomize=True, deadline=None)


@pair_losses
@few
@hypothesis.given(shape=SHAPES, temperature=st.floats(0.15, 3.0))
def test_pair_losses_equal_a_loop(name, shape, temperature):
    z1, z2 = unit_rows(0, *shape), unit_rows(1, *shape)
    if name == "nt_xent":  # normalises by itself
        z1, z2 = 3 * z1, 0.2 * z2
    with jax.enable_x64(True):
        got = loss_of(name, z1, z2, temperature=temperature)
    assert got.dtype == np.float64
    want = ORACLES[name](z1, z2, temperature)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


@few
@hypothesis.given(shape=SHAPES, k=st.integers(1, 4), temperature=st.floats(0.05, 3.0))
def test_info_nce_equals_a_loop(shape, k, temperature):
    arrays = unit_rows(0, *shape), unit_rows(1, *shape), unit_rows(2, k, shape[1])
    want = info_nce_oracle(*arrays, temperature)
    with jax.enable_x64(True):
        got = info_nce(*arrays, temperature=temperature)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_values_by_hand_where_all_scores_are_equal():
    same = np.full((4, 3), 1 / math.sqrt(3), np.float32)
    seven = np.full((7, 3), 1 / math.sqrt(3), np.float32)
    close = partial(np.testing.assert_allclose, rtol=1e-6)
    close(info_nce(same, same, seven, temperature=0.3), np.full(4, np.log(8)))
    close(moco_loss(same, same, seven, temperature=0.3), np.log(8))
    close(nt_xent(same, same, temperature=0.3), np.log(7))
    close(plain_loss(same, same, temperature=0.3), np.log(4))
    # P = 1/7 each: ln 7 for the positive, and six negatives that are rejected.
    want = np.log(7) - 6 * np.log(6 / 7)
    close(uel_loss(same, same, temperature=0.3, negative_margin=1), want)


@pair_losses
def test_gradients_to_second_order(name, x64):
    z1, z2 = (jnp.asarray(unit_rows(seed, 3, 4)) for seed in (0, 1))
    loss = partial(loss_of, name, temperature=0.5)
    # Numbers cannot see a stop-gradient: UEL is checked against held columns below.
    if not name.startswith("uel"):
        check_grads(loss, (z1, z2), order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


def test_info_nce_gradients_to_second_order(x64):
    arrays = [jnp.asarray(unit_rows(s, n, 4)) for s, n in ((0, 3), (1, 3), (2, 5))]
    check_grads(
        partial(info_nce, temperature=0.5),
        arrays,
        order=2,
        modes=["rev"],
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize("margin", [1, 2])
def test_uel_stops_the_gradient_of_the_second_factor(margin, x64):
    views, n = unit_rows(0, 6, 4), 3

    def held(rows):
        """The oracle as a function of the first factors alone."""
        total = 0.0
        for r in range(2 * n):
            e = np.exp(rows[r] @ views.T / 0.5)
            twin = (r + n) % (2 * n)
            negatives = np.delete(e, [r, twin])
            z = e[twin] + margin * negatives.sum()
            total -= np.log(e[twin] / z) + margin * np.log(1 - negatives / z).sum()
        return total / (2 * n)

    name = {1: "uel", 2: "uel_margin_2"}[margin]
    got = np.concatenate(moves_of(name, views[:n], views[n:], temperature=0.5)[1])
    for index in np.ndindex(got.shape):
        step = np.zeros_like(views)
        step[index] = 1e-6
        want = (held(views + step) - held(views - step)) / 2e-6
        np.testing.assert_allclose(got[index], want, atol=1e-8)


def test_uel_survives_a_negative_that_takes_all_the_probability():
    # One negative is a duplicate at similarity 1, all others at -1: 1 - P ~ e^-100.
    z1 = np.asarray([[1.0, 0.0], [1.0, 0.0]], np.float32)
    value, gradient = moves_of("uel", z1, -z1, temperature=0.02)
    # -ln P+ = 100 + ln(1 + 2e-100); -ln(1 - P) of the duplicate = 100 - ln 2.
    np.testing.assert_allclose(value, 200 - np.log(2), rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_moco_with_the_batchs_keys_is_adco_against_a_bank_that_stands_still():
    arrays = [np.asarray(unit_rows(s, n, 3)) for s, n in ((0, 4), (1, 4), (2, 6))]
    want, descent, *_ = bank_oracle.adco(*arrays, 0.2, 0.2)
    with jax.enable_x64(True):
        loss = partial(losses.moco_loss, temperature=0.2, batch_keys=True)
        value, gradient = jax.jit(jax.value_and_grad(loss))(*arrays)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    np.testing.assert_allclose(gradient, descent, rtol=1e-10, atol=1e-12)


def test_moco_moves_queries_only():
    arrays = [jnp.asarray(unit_rows(s, n, 3)) for s, n in ((0, 4), (1, 4), (2, 6))]
    loss = jax.jit(partial(losses.moco_loss, temperature=0.2))
    queries, keys, queue = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)
    assert np.abs(queries).max() > 1e-3
    assert not np.any(keys) and not np.any(queue)
    each = info_nce(*arrays, temperature=0.2)
    np.testing.assert_allclose(loss(*arrays), np.mean(each), rtol=1e-6)


def test_a_tiny_loss_keeps_its_digits():
    # The positive leads by 2 / 0.1: the loss, ln(1 + 3 exp(-20)), is far below the
    # rounding of the scores themselves.
    query = np.asarray([[1.0, 0.0]], np.float32)
    got = info_nce(query, query, -np.repeat(query, 3, axis=0), temperature=0.1)
    np.testing.assert_allclose(got, np.log1p(3 * np.exp(-20.0)), rtol=1e-5)


@pair_losses
def test_the_order_of_the_images_does_not_matter(name):
    z1, z2 = (np.float32(unit_rows(seed, 5, 4)) for seed in (0, 1))
    loss = partial(loss_of, name, temperature=0.2)
    order = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(loss(z1[order], z2[order]), loss(z1, z2), rtol=1e-5)
    assert abs(loss(z1[order], z2) - loss(z1, z2)) > 1e-3  # but the pairing does


@pair_losses
def test_swapping_the_views(name):
    z1, z2 = (np.float32(unit_rows(seed, 5, 4)) for seed in (0, 1))
    loss = partial(loss_of, name, temperature=0.2)
    same = abs(loss(z2, z1) - loss(z1, z2)) < 1e-5
    assert same == (name != "plain")  # the only one-directional one


@pair_losses
def test_bfloat16_at_the_lowest_temperature(name):
    z1, z2 = (jnp.asarray(unit_rows(s, 4, 8), jnp.bfloat16) for s in (0, 1))
    value, gradients = moves_of(name, z1, z2, temperature=0.02)
    assert value.dtype == np.float32 and np.isfinite(value)
    for gradient in gradients:
        assert gradient.dtype == jnp.bfloat16
        assert np.isfinite(np.asarray(gradient, np.float32)).all()
    wide = [np.asarray(z, np.float32) for z in (z1, z2)]
    exact = loss_of(name, *wide, temperature=0.02)
    np.testing.assert_allclose(value, exact, rtol=1e-5)  # sums ran in float32


@pair_losses
def test_zero_rows_give_no_nan(name):
    z1, z2 = (np.float32(unit_rows(s, 3, 4)) for s in (0, 1))
    z1[1] = 0
    value, gradients = moves_of(name, z1, z2, temperature=0.1)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


@pair_losses
def test_eight_devices_agree_with_one(name, devices):
    z1, z2 = (np.float32(unit_rows(s, 16, 4)) for s in (0, 1))
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,), devices=devices)
    spread = jax.device_put((z1, z2), NamedSharding(mesh, P("data")))
    value, gradients = moves_of(name, *spread, temperature=0.2)
    want, want_gradients = moves_of(name, z1, z2, temperature=0.2)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    for got, expected in zip(gradients, want_gradients, strict=True):
        assert len(got.sharding.device_set) == 8
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("batch_keys", [False, True])
def test_moco_on_eight_devices_agrees_with_one(devices, batch_keys):
    arrays = [jnp.asarray(unit_rows(s, n, 4)) for s, n in ((0, 8), (1, 8), (2, 16))]
    of_moco = partial(losses.moco_loss, temperature=0.2, batch_keys=batch_keys)
    loss = jax.jit(jax.value_and_grad(of_moco))
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,), devices=devices)
    spread = jax.device_put(arrays, NamedSharding(mesh, P("data")))
    value, gradient = loss(*spread)
    want, want_gradient = loss(*arrays)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(gradient, want_gradient, atol=1e-6)


# What is refused.


def ones(shape, dtype=np.float32):
    return np.ones(shape, dtype)


@pair_losses
@pytest.mark.parametrize(
    ("z1", "z2", "temperature", "error", "message"),
    [
        ((4, 3), (4, 2), 0.1, ValueError, r"one shape, got z1 \(4, 3\), z2 \(4, 2\)"),
        ((4,), (4,), 0.1, ValueError, r"z1: expected a non-empty \[rows, dimensions\]"),
        ((0, 3), (0, 3), 0.1, ValueError, r"z1: expected a non-empty"),
        ((1, 3), (1, 3), 0.1, ValueError, "at least two pairs"),
        ((4, 3), (4, 3), 0.0, ValueError, "temperature: expected a finite number > 0"),
        (
            (4, 3),
            (4, 3),
            math.nan,
            ValueError,
            "temperature: expected a finite number > 0",
        ),
    ],
)
def test_pair_losses_refuse(name, z1, z2, temperature, error, message):
    with pytest.raises(error, match=message):
        PAIR_LOSSES[name](ones(z1), ones(z2), temperature=temperature)


@pair_losses
def test_pair_losses_refuse_integers(name):
    with pytest.raises(TypeError, match=r"z1: expected .*floating-point.*, got int32"):
        PAIR_LOSSES[name](ones((4, 3), np.int32), ones((4, 3)), temperature=0.1)


@pytest.mark.parametrize("margin", [0.5, math.inf])
def test_uel_refuses_a_margin(margin):
    z = ones((2, 3))
    with pytest.raises(
        ValueError, match=r"negative_margin: expected .* at least 1, got"
    ):
        losses.uel_loss(z, z, temperature=0.1, negative_margin=margin)


@pytest.mark.parametrize(
    ("keys", "negatives", "message"),
    [
        ((3, 4), (5, 4), r"one shape, got queries \(2, 4\), keys \(3, 4\)"),
        ((2, 4), (5, 3), r"one length, got queries \(2, 4\), negatives \(5, 3\)"),
        ((2, 4), (0, 4), r"negatives: expected a non-empty"),
    ],
)
def test_info_nce_refuses(keys, negatives, message):
    with pytest.raises(ValueError, match=message):
        losses.info_nce(ones((2, 4)), ones(keys), ones(negatives), temperature=0.1)


# l2_normalize and the splitting of pairs.


def test_l2_normalize_makes_unit_vectors_along_any_axis(x64):
    x = np.random.default_rng(0).standard_normal((3, 4, 2))
    for axis in (0, 1, -1):
        want = x / np.linalg.norm(x, axis=axis, keepdims=True)
        got = jax.jit(partial(losses.l2_normalize, axis=axis))(x)
        np.testing.assert_allclose(got, want, rtol=1e-14)
    check_grads(l2_normalize, (x,), order=2, modes=["rev", "fwd"])


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
def test_l2_normalize_keeps_zero_rows_and_their_gradients_zero(dtype):
    x = jnp.asarray([[0, 0, 0], [2, 2, 2]], dtype)
    y = l2_normalize(x)
    assert y.dtype == dtype
    assert not np.any(np.asarray(y, np.float32)[0])

    def curved(x):
        return jnp.sum(losses.l2_normalize(x).astype(np.float32) ** 3)

    gradient = np.asarray(jax.jit(jax.grad(curved))(x), np.float32)
    assert not np.any(gradient[0])
    assert np.isfinite(gradient).all()
    assert np.isfinite(np.asarray(jax.jit(jax.hessian(curved))(x), np.float32)).all()


@pytest.mark.parametrize("length", [1e-30, 1e30])
def test_l2_normalize_does_not_overflow_in_the_squares(length):
    x = np.asarray([[3.0, 4.0]], np.float32) * np.float32(length)
    np.testing.assert_allclose(l2_normalize(x), [[0.6, 0.8]], rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda x: losses.l2_normalize(x)[0, 0]))(x)
    np.testing.assert_allclose(
        np.float64(gradient) * length, [[0.128, -0.096]], rtol=1e-5
    )


def test_pairs_are_split_in_column_order():
    square = np.arange(36.0, dtype=np.float32).reshape(6, 6)
    positive, negatives, others = jax.device_get(
        jax.jit(lambda x: (*split_pairs(x), without_diagonal(x)))(square)
    )
    for r in range(6):
        twin = (r + 3) % 6
        assert positive[r] == square[r, twin]
        np.testing.assert_array_equal(negatives[r], np.delete(square[r], [r, twin]))
    for r in range(6):
        np.testing.assert_array_equal(others[r], np.delete(square[r], r))
