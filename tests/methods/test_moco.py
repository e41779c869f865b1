"""MoCo v2: its queue, its loss, and who meets whom in it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax import methods
from caco_jax.methods.method import Context, Encode, Network, View
from caco_jax.methods.moco import enqueue

K, N, D = 10, 4, 3


def unit(seed, *shape):
    rows = np.random.default_rng(seed).normal(size=shape)
    return np.float32(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def table_encode(network, view):
    """Embeddings from a table of them; the view says which."""
    return network.params[view.images], Network(network.params, network.stats + 1)


def play(method, queries, keys, queue):
    return _play(method.payoff, queries, keys, queue)


@functools.partial(jax.jit, static_argnames="payoff")
def _play(payoff, queries, keys, queue):
    context = Context(
        jnp.zeros(()),
        Network(keys, jnp.zeros(())),
        {"queue": queue, "next_row": jnp.zeros((), jnp.int32)},
        Encode(table_encode, table_encode),
    )
    views = [View(jnp.asarray(v)) for v in (0, 1)]
    return payoff({"encoder": queries}, context, views)


def cross_entropy(queries, keys, queue, temperature):
    """One row at a time, in float64."""
    losses = []
    for query, key in zip(*np.asarray([queries, keys], np.float64), strict=True):
        scores = np.concatenate([[query @ key], np.asarray(queue) @ query])
        scores = scores / temperature
        losses.append(np.log(np.exp(scores).sum()) - scores[0])
    return np.mean(losses)


def test_with_the_batchs_keys_a_query_is_told_from_them_too():
    method = methods.moco(queue_size=K, temperature=0.3, batch_keys=True)(D)
    queries, keys, queue = unit(0, 2, N, D), unit(1, 2, N, D), unit(2, K, D)
    rows = [np.concatenate([np.delete(keys[1], n, 0), queue]) for n in range(N)]
    pairs = zip(queries[0], keys[1], rows, strict=True)
    want = np.mean([cross_entropy([q], [k], others, 0.3) for q, k, others in pairs])
    loss, outcome = play(method, queries, keys, queue)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_array_equal(outcome.arrays["keys"], keys[1])
    assert method.candidates(N) == N + K


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_is_info_nce_of_the_other_views_key_and_the_queue(symmetric):
    method = methods.moco(queue_size=K, temperature=0.3, symmetric=symmetric)(D)
    queries, keys, queue = unit(0, 2, N, D), unit(1, 2, N, D), unit(2, K, D)
    loss, outcome = play(method, queries, keys, queue)
    first = cross_entropy(queries[0], keys[1], queue, 0.3)
    second = cross_entropy(queries[1], keys[0], queue, 0.3)
    want = (first + second) / 2 if symmetric else first
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_allclose(outcome.metrics["cross_entropy"], first, rtol=1e-5)
    passes = 2 if symmetric else 1
    assert (int(outcome.stats), int(outcome.target.stats)) == (passes, passes)


def test_the_symmetric_forms_keys_meet_neither_view_of_their_image():
    # No key of this batch is in the queue while either direction is scored; both
    # views' keys are there after the step, an image's two side by side.
    method = methods.moco(queue_size=K, symmetric=True)(D)
    keys, queue = unit(1, 2, N, D), unit(2, K, D)
    _, outcome = play(method, unit(0, 2, N, D), keys, queue)
    _, extra = method.advance(
        {},
        {"queue": jnp.asarray(queue), "next_row": jnp.zeros((), jnp.int32)},
        outcome,
    )
    want = np.stack([keys[0], keys[1]], axis=1).reshape(-1, D)
    after = np.asarray(extra["queue"])
    np.testing.assert_array_equal(after[: 2 * N], want)
    np.testing.assert_array_equal(after[2 * N :], queue[2 * N :])


def test_keys_and_queue_get_no_gradient():
    method = methods.moco(queue_size=K)(D)
    gradients = jax.grad(lambda *arrays: play(method, *arrays)[0], argnums=(0, 1, 2))(
        unit(0, 2, N, D), unit(1, 2, N, D), unit(2, K, D)
    )
    assert np.abs(np.asarray(gradients[0])[0]).max() > 0.01
    for gradient in gradients[1:]:
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("count", [4, 7, 10, 23])
def test_the_queue_is_first_in_first_out_whatever_divides_it(count):
    expected = [np.zeros(1)] * K
    queue, next_row = jnp.zeros((K, 1)), jnp.zeros((), jnp.int32)
    push = jax.jit(enqueue)
    for step in range(4):
        keys = np.arange(count, dtype=np.float32)[:, None] + 100 * (step + 1)
        queue, next_row = push(queue, next_row, keys)
        expected = [*expected, *np.asarray(keys)][-K:]
        assert sorted(np.ravel(queue)) == sorted(np.ravel(expected))
        oldest_first = np.roll(np.asarray(queue), -int(next_row), axis=0)
        np.testing.assert_array_equal(oldest_first, np.stack(expected))


def test_the_queue_starts_with_unit_rows_and_the_chance_level_counts_the_key():
    method = methods.moco(queue_size=K)(D)
    players, extra = method.init(jax.random.key(0))
    assert players == {}
    lengths = np.linalg.norm(extra["queue"], axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)
    assert extra["next_row"] == 0
    flat = np.broadcast_to(unit(0, D), (2, N, D))
    loss, _ = play(method, flat, flat, np.broadcast_to(unit(0, D), (K, D)))
    np.testing.assert_allclose(loss, np.log(method.candidates(N)), rtol=1e-6)
