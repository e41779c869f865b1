"""Gradient accumulation: the step of the whole batch, from parts of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.losses.contrast import nt_xent
from caco_jax.methods.method import Encode, Network, View
from caco_jax.training.encode import (
    join_groups,
    make_encode,
    microbatched,
    split_groups,
)
from caco_jax.training.sharding import make_mesh, replicated, rows
from tests.methods.table import (
    BATCH,
    KEY,
    PixelEncoder,
    draw_images,
    make_step,
    small_method,
    start,
)

# One worker runs them all: they share what was compiled.
pytestmark = pytest.mark.xdist_group("microbatches")

GROUP = 4
CASES = [
    "caco",
    "simclr+clae",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("adco", "moco")),
    pytest.param("moco+clae", marks=pytest.mark.slow),
]


def parts_of(count, *, group_size=GROUP, unroll=True):
    """How an encoder encodes in so many parts, of both networks."""

    def change(encode):
        encode = microbatched(
            encode.online, count, group_size=group_size, unroll=unroll
        )
        return Encode(encode, encode)

    return change


def two_steps(case, change):
    """States and metrics of two steps in float64, BatchNorm in groups of rows."""
    name, _, clae = case.partition("+")
    method = small_method(name, clae=bool(clae))
    encoder = PixelEncoder(param_dtype=jnp.float64, group_size=GROUP)
    step, optimizer = make_step(method, encoder, 2, change_encode=change)
    state = start(method, encoder, optimizer, jnp.float64)
    step, found = jax.jit(step), []
    for _ in range(2):
        state, metrics = step(state, draw_images().astype(jnp.float64))
        found.append((state, metrics))
    return found


@functools.cache
def whole(case):
    with jax.enable_x64(True):
        return two_steps(case, lambda encode: encode)


def assert_close(found, expected, atol):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=atol),
        found,
        expected,
    )


def assert_parts_step_as_the_whole(case, count, *, unroll):
    with jax.enable_x64(True):
        found = two_steps(case, parts_of(count, unroll=unroll))
    assert_close(found, whole(case), 1e-10)


@pytest.mark.parametrize("case", CASES)
def test_parts_of_whole_groups_step_as_the_whole_batch(case):
    assert_parts_step_as_the_whole(case, 2, unroll=True)


def test_so_do_parts_in_a_loop():
    assert_parts_step_as_the_whole("simclr+clae", 4, unroll=False)


def tiny_encoder(*, group_size=None):
    encoder = PixelEncoder(adversarial_branch=False, group_size=group_size)
    init = jax.jit(functools.partial(encoder.init, train=True))
    variables = init(KEY, draw_images(2))
    network = Network(variables["params"], variables["batch_stats"])
    return make_encode(encoder).online, network


def test_without_groups_statistics_are_those_of_each_part():
    encode, network = tiny_encoder()
    images = draw_images()

    @functools.partial(jax.jit, static_argnums=1)
    def encoded(images, count):
        return microbatched(encode, count, unroll=True)(network, View(images))

    found, after = encoded(images, 2)
    parts = [encoded(images[index::2], 1) for index in range(2)]
    for index, (embeddings, _) in enumerate(parts):
        assert_close(found[index::2], embeddings, 1e-6)
    mean = jax.tree.map(lambda x, y: (x + y) / 2, parts[0][1].stats, parts[1][1].stats)
    assert_close(after.stats, mean, 1e-6)
    together, _ = encoded(images, 1)
    assert np.abs(found - together).max() > 1e-3


def test_one_part_is_the_encoder_itself():
    encode, _ = tiny_encoder()
    assert microbatched(encode, 1, group_size=GROUP, unroll=False) is encode


def loss_of(encode):
    def loss(params, stats, images):
        network = Network(params, stats)
        z, network = encode(network, View(images))
        other, _ = encode(network, View(images * 0.5))
        return nt_xent(z, other, temperature=0.5)

    return jax.grad(loss)


def compiled(encode, network, shape, mesh=None):
    """The gradient's program for float32 images of a shape."""
    shardings = (None,) * 3
    if mesh is not None:
        shardings = (replicated(mesh), replicated(mesh), rows(mesh))
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    gradient = jax.jit(loss_of(encode), in_shardings=shardings)
    return gradient.lower(*network, images).compile()


def test_activations_are_those_of_one_part():
    encode, network = tiny_encoder()
    shape = (64, 32, 32, 3)
    sizes = {
        count: compiled(
            microbatched(encode, count, unroll=False), network, shape
        ).memory_analysis()
        for count in (1, 8)
    }
    assert sizes[8].temp_size_in_bytes < 0.5 * sizes[1].temp_size_in_bytes


@pytest.mark.parametrize("unroll", [True, False])
def test_no_image_leaves_its_device(devices, unroll):
    encode, network = tiny_encoder()
    encode = microbatched(encode, 2, unroll=unroll)
    shape = (32, 12, 12, 3)
    text = compiled(encode, network, shape, make_mesh(devices)).as_text()
    assert "all-reduce" in text  # of the parameters' gradient: it is a sharded program
    moving = ("all-gather", "all-to-all", "collective-permute")
    for line in text.splitlines():
        # Embeddings may move, for a loss of all pairs; images and activations may not.
        assert "12,12" not in line or not any(name in line for name in moving), line


@pytest.mark.parametrize("group_size", [1, 2])
def test_parts_are_put_together_as_they_were(group_size):
    whole = np.arange(48).reshape(24, 2)
    parts = split_groups(jnp.asarray(whole), 3, group_size=group_size)
    assert parts.shape == (3, 8, 2)
    groups = np.asarray(parts)[:, :, 0] // 2 // group_size
    for index, members in enumerate(groups):  # groups in turn, each with all its rows
        expected = np.repeat(np.arange(index, 24 // group_size, 3), group_size)
        np.testing.assert_array_equal(members, expected)
    np.testing.assert_array_equal(join_groups(parts, group_size=group_size), whole)


def test_rows_that_do_not_fit_are_refused():
    encode, network = tiny_encoder(group_size=GROUP)
    encode = microbatched(encode, 3, group_size=GROUP, unroll=True)
    message = f"expected a multiple of 3 parts of groups of 4 rows, got {BATCH} rows"
    with pytest.raises(ValueError, match=message):
        encode(network, View(draw_images()))
