"""How views become embeddings: together by size, in groups, with keys shuffled."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.methods.method import (
    Network,
    View,
    encode_by_size,
    encode_views,
    interleave_rows,
    split_rows,
)
from caco_jax.nets import BatchNorm
from caco_jax.training.encode import make_encode, shuffle_rows
from caco_jax.training.sharding import make_mesh, rows, state_shardings
from tests.methods.table import DIM, draw_images, make_step, small_method, start

SIZES = [4, 4, 2, 2, 2]


def views_of_sizes(sizes=SIZES):
    rng = np.random.default_rng(0)
    return [
        View(jnp.asarray(rng.standard_normal((6, size, size, 1)), np.float32))
        for size in sizes
    ]


def sums(network, view):
    """An "encoder" without statistics that counts its passes."""
    embeddings = view.images.sum((1, 2))
    return embeddings, Network(network.params, [*network.stats, view.images.shape[:2]])


def test_rows_that_were_interleaved_come_apart_again():
    parts = [jnp.arange(12.0).reshape(4, 3) + 100 * i for i in range(3)]
    rows_together = interleave_rows(parts)
    np.testing.assert_array_equal(rows_together[:3], [part[0] for part in parts])
    for got, want in zip(split_rows(rows_together, 3), parts, strict=True):
        np.testing.assert_array_equal(got, want)


def test_each_size_is_one_pass_and_embeddings_keep_their_places():
    views = views_of_sizes()
    one_by_one, _ = encode_views(sums, Network({}, []), views)
    together, network = encode_by_size(sums, Network({}, []), views)
    assert network.stats == [(12, 4), (18, 2)]
    for got, want in zip(together, one_by_one, strict=True):
        np.testing.assert_array_equal(got, want)


def test_sizes_out_of_order_and_alone_keep_their_places():
    views = views_of_sizes([2, 4, 2])
    together, network = encode_by_size(sums, Network({}, []), views)
    assert network.stats == [(12, 2), (6, 4)]
    for embedding, view in zip(together, views, strict=True):
        np.testing.assert_array_equal(embedding, view.images.sum((1, 2)))


def test_branches_are_never_mixed():
    images = views_of_sizes([2])[0].images
    views = [View(images), View(images, "adversarial")]
    _, network = encode_by_size(sums, Network({}, []), views)
    assert len(network.stats) == 2


class Normed(nn.Module):
    """BatchNorm over groups of rows, and nothing to hide it."""

    group_size: int | None

    @nn.compact
    def __call__(self, images, *, train, branch="clean"):
        x = nn.Dense(8, use_bias=False)(images)
        x = BatchNorm(group_size=self.group_size, adversarial_branch=True)(
            x, train=train, branch=branch
        )
        return nn.Dense(DIM)(nn.relu(x).mean((1, 2)))


def encode_once(group_size, key=None):
    encoder, view = Normed(group_size), View(draw_images(8))
    encode = make_encode(encoder).target
    if key is not None:
        encode = shuffle_rows(encode, key)
    network = variables_of(encoder)
    network = Network(network["params"], network["batch_stats"])
    return jax.device_get(jax.jit(encode)(network, view))


@functools.partial(jax.jit, static_argnums=0)
def variables_of(encoder):
    return encoder.init(jax.random.key(0), draw_images(8), train=True)


def test_without_groups_a_shuffle_changes_nothing():
    want, want_network = encode_once(None)
    got, network = encode_once(None, jax.random.key(3))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        network.stats,
        want_network.stats,
    )


def test_a_shuffled_row_shares_statistics_with_other_rows():
    key = jax.random.key(3)
    plain, _ = encode_once(2)
    shuffled, _ = encode_once(2, key)
    assert np.abs(shuffled - plain).max() > 1e-3
    # By hand: the images in that order, in groups of two, back in their places.
    order = np.asarray(jax.random.permutation(key, 8))
    encoder, images = Normed(2), draw_images(8)
    variables = variables_of(encoder)
    want = np.empty((8, DIM), np.float32)
    apply = jax.jit(functools.partial(encoder.apply, train=True, mutable="batch_stats"))
    for pair in order.reshape(4, 2):
        alone, _ = jax.device_get(apply(variables, images[pair]))
        want[pair] = alone / np.linalg.norm(alone, axis=1, keepdims=True)
    np.testing.assert_allclose(shuffled, want, rtol=1e-4, atol=1e-5)


def play(mesh, method, *, shuffle_keys):
    step, optimizer = make_step(method, Normed(2), 2, shuffle_keys=shuffle_keys)
    state = start(method, Normed(2), optimizer)
    with jax.set_mesh(mesh):
        shardings = state_shardings(state, mesh, row_sharded=method.row_sharded)
        step = jax.jit(step, in_shardings=(shardings, rows(mesh)))
        state = jax.device_put(state, shardings)
        for _ in range(2):
            state, metrics = step(state, jax.device_put(draw_images(), rows(mesh)))
    return jax.device_get((state.players, state.stats, metrics))


@pytest.mark.parametrize("name", ["moco", pytest.param("adco", marks=pytest.mark.slow)])
def test_groups_and_shuffles_mean_the_same_on_one_device_and_on_eight(name, devices):
    method = small_method(name)
    one, eight = (
        play(make_mesh(devices[:count]), method, shuffle_keys=True) for count in (1, 8)
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), eight, one
    )
    unshuffled = play(make_mesh(devices[:1]), method, shuffle_keys=False)
    assert float(unshuffled[2]["loss"]) != float(one[2]["loss"])
    again = play(make_mesh(devices[:1]), method, shuffle_keys=True)
    assert float(again[2]["loss"]) == float(one[2]["loss"])
