"""The bank games on eight devices: the same numbers, little traffic."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from caco_jax.losses.bank import adco_loss, caco_loss, nearest_entries
from tests.losses.test_bank import draw, variants

N, K, D = 16, 48, 8


def make_mesh(*sizes):
    names = ("data", "model")[: len(sizes)]
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


def game(queries, keys, bank, *, block_size=None):
    """Positives, and both losses with their moves."""
    options = {
        "temperature": 0.2,
        "bank_temperature": 0.1,
        "block_size": block_size,
    }
    positives = nearest_entries(keys, bank, block_size=block_size)
    play = functools.partial(jax.value_and_grad, argnums=(0, 2), has_aux=True)
    return (
        positives,
        play(caco_loss)(queries, positives, bank, **options),
        play(adco_loss)(queries, keys, bank, **options),
    )


def spread(mesh, *arrays):
    sharding = NamedSharding(mesh, P(mesh.axis_names))
    return [jax.device_put(array, sharding) for array in arrays]


def arrays():
    queries, keys, bank = draw(0, N, K, D, np.float32)
    bank[[7, 30]] = 0.0
    bank[40] = 2 * bank[3]  # ties between the first device and another
    keys[:2] = bank[3] / np.linalg.norm(bank[3])
    return queries, keys, bank


@pytest.fixture(scope="module")
def on_one():
    return jax.jit(game)(*arrays())


@pytest.mark.parametrize(
    ("sizes", "block_size"), [((8,), None), ((8,), 4), ((4, 2), 5), ((1,), None)]
)
def test_a_mesh_changes_no_number(devices, on_one, sizes, block_size):
    mesh = (
        make_mesh(*sizes)
        if sizes != (1,)
        else jax.make_mesh(
            (1,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:1]
        )
    )
    with jax.set_mesh(mesh):
        play = jax.jit(functools.partial(game, block_size=block_size))
        got = play(*spread(mesh, *arrays()))
    np.testing.assert_array_equal(got[0][:2], 3)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), got, on_one)
    for _, (descent, ascent) in got[1:]:  # moves stay where their rows are
        assert descent.sharding.is_equivalent_to(
            NamedSharding(mesh, P(mesh.axis_names)), 2
        )
        assert ascent.sharding.is_equivalent_to(
            NamedSharding(mesh, P(mesh.axis_names)), 2
        )


def test_without_jit_too(devices, on_one):
    mesh = make_mesh(8)
    with jax.set_mesh(mesh):
        queries, keys, bank = spread(mesh, *arrays())
        positives = nearest_entries(keys, bank)
        loss, _ = caco_loss(queries, positives, bank, temperature=0.2)
    np.testing.assert_array_equal(positives, on_one[0])
    np.testing.assert_allclose(loss, on_one[1][0][0], rtol=1e-6)


def test_variants_are_the_same_on_eight_devices(devices):
    want = jax.jit(variants)(*arrays())
    mesh = make_mesh(8)
    with jax.set_mesh(mesh):
        play = jax.jit(functools.partial(variants, block_size=4))
        got = play(*spread(mesh, *arrays()))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-6), got, want)


@pytest.mark.parametrize("batch_keys", [True, False])
def test_second_order_is_the_same_on_eight_devices(devices, batch_keys):
    queries, keys, bank = arrays()

    def curvature(queries, keys, bank):
        def steepness(queries, bank):
            loss = functools.partial(adco_loss, temperature=0.5, batch_keys=batch_keys)
            moves, _ = jax.grad(loss, (0, 2), has_aux=True)(queries, keys, bank)
            return sum(jnp.sum(jnp.sin(move)) for move in moves)

        return jax.grad(steepness, (0, 1))(queries, bank)

    want = jax.jit(curvature)(queries, keys, bank)
    mesh = make_mesh(8)
    with jax.set_mesh(mesh):
        got = jax.jit(curvature)(*spread(mesh, queries, keys, bank))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), got, want)


def test_inside_a_shard_map_the_rows_are_the_callers_own(devices):
    queries, keys, bank = arrays()
    mesh, rows = make_mesh(8), P("data")

    def stack(loss):  # a mean of the device's own rows has no axis to stack along
        return jax.tree.map(lambda leaf: leaf[None] if leaf.ndim == 0 else leaf, loss)

    def local(*arrays):
        positives, *plays = game(*arrays)
        return positives, [(stack(value), moves) for value, moves in plays]

    specs = (rows, [(rows, (rows, P())) for _ in range(2)])
    with jax.set_mesh(mesh):
        got = jax.jit(
            jax.shard_map(local, in_specs=(rows, rows, P()), out_specs=specs)
        )(queries, keys, bank)

    alone = jax.jit(local)
    parts = [
        alone(query, key, bank)
        for query, key in zip(np.split(queries, 8), np.split(keys, 8), strict=True)
    ]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(got[0], np.concatenate([part[0] for part in parts]))
    for play, ((loss, aux), (descent, ascent)) in enumerate(got[1]):
        wanted = [part[1][play] for part in parts]
        close(loss, np.concatenate([value[0] for value, _ in wanted]))
        close(aux[0], np.concatenate([value[1][0] for value, _ in wanted]))
        close(descent, np.concatenate([moves[0] for _, moves in wanted]))
        close(ascent, sum(moves[1] for _, moves in wanted))  # the bank is shared


@pytest.mark.parametrize(
    ("n", "k", "message"),
    [
        (16, 44, r"bank: .* 8 devices .* 44 rows"),
        (12, 48, r": .* 8 devices .* 12 rows"),
    ],
)
def test_rows_that_do_not_share_out_are_named(devices, n, k, message):
    queries, keys, bank = draw(0, n, k, D, np.float32)
    with jax.set_mesh(make_mesh(8)):
        for call in (
            lambda: nearest_entries(keys, bank),
            lambda: caco_loss(queries, jnp.zeros(n, int), bank, temperature=0.1),
            lambda: adco_loss(queries, keys, bank, temperature=0.1),
        ):
            with pytest.raises(ValueError, match=message):
                call()


def two_views(queries, keys, bank, other_queries, other_keys):
    """The bank game of CaCo's two views: gradients of the queries and the bank's."""

    def payoff(queries, other_queries, bank):
        return sum(
            caco_loss(rows, nearest_entries(key, bank), bank, temperature=0.1)[0]
            for rows, key in ((queries, other_keys), (other_queries, keys))
        )

    return jax.grad(payoff, (0, 1, 2))(queries, other_queries, bank)


def asymmetric(queries, keys, bank, *_):
    loss = functools.partial(adco_loss, temperature=0.1, bank_temperature=0.05)
    return jax.grad(loss, (0, 2), has_aux=True)(queries, keys, bank)[0]


BYTES = {"f32": 4, "s32": 4, "pred": 1}
COLLECTIVE = re.compile(
    r"= (.*?) (?:all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute|collective-broadcast)(-start)?\("
)


def traffic(function, k, n=64, d=128):
    """Bytes of every collective's result in the compiled program, largest first."""
    mesh = make_mesh(8)
    rows = NamedSharding(mesh, P("data"))
    shape = functools.partial(jax.ShapeDtypeStruct, dtype="float32", sharding=rows)
    view, bank = shape((n, d)), shape((k, d))
    with jax.set_mesh(mesh):
        text = jax.jit(function).lower(view, view, bank, view, view).compile().as_text()
    found = []
    for line in text.splitlines():
        if match := COLLECTIVE.search(line):
            found += [
                BYTES[dtype] * int(np.prod([int(x) for x in dims.split(",") if x]))
                for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            ]
            if "reduce-scatter" in line:
                found[-1] *= mesh.size  # its operand travels, its result is a share
    assert found, "no collective was found: is the program sharded?"
    return sorted(found, reverse=True)


@pytest.mark.parametrize("function", [two_views, asymmetric])
def test_traffic_does_not_grow_with_the_bank(devices, function):
    assert traffic(function, 512) == traffic(function, 2048)


def test_traffic_of_two_views_is_their_embeddings(devices):
    n, d = 64, 128
    found = traffic(two_views, 1024, n, d)
    assert found[0] <= n * d * 4
    assert sum(found) <= 2.5 * (4 * n * d * 4)


def test_no_device_holds_the_bank_or_its_scores(devices):
    """Memory of one device: its rows of the bank, blocks of scores, the queries."""
    n, k, d = 32, 32768, 16
    mesh = make_mesh(8)
    rows = NamedSharding(mesh, P("data"))
    shape = functools.partial(jax.ShapeDtypeStruct, dtype="float32", sharding=rows)
    play = functools.partial(game, block_size=128)
    with jax.set_mesh(mesh):
        program = jax.jit(play).lower(*map(shape, ((n, d), (n, d), (k, d)))).compile()
    memory = program.memory_analysis()
    assert memory.temp_size_in_bytes < 2 * k * d * 4 / 8  # a gradient, and blocks
    assert memory.argument_size_in_bytes < k * d * 4 / 8 + 4 * n * d * 4
