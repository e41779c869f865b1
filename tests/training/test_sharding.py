"""Where arrays live: rows of banks and batches spread, everything else whole."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from caco_jax.methods.method import Network
from caco_jax.training.sharding import make_mesh, replicated, rows, state_shardings
from caco_jax.training.state import TrainState

SPREAD = ("bank", "bank_ages", "queue")


def shapes_on_devices(array):
    return [shard.data.shape for shard in array.addressable_shards]


def test_the_mesh_is_one_axis_over_all_devices(devices):
    mesh = make_mesh()
    assert mesh.axis_names == ("data",)
    assert list(mesh.devices) == devices
    assert mesh.axis_types == (AxisType.Auto,)


def test_a_mesh_can_be_of_fewer_devices(devices):
    assert list(make_mesh(devices[2:5]).devices) == devices[2:5]


@pytest.mark.parametrize("axis, part", [(0, (2, 8, 3)), (1, (16, 1, 3))])
def test_rows_are_spread_along_the_axis(devices, axis, part):
    array = jax.device_put(jnp.zeros((16, 8, 3)), rows(make_mesh(devices), axis=axis))
    assert shapes_on_devices(array) == [part] * 8


def test_a_replicated_array_is_whole_on_every_device(devices):
    array = jax.device_put(jnp.zeros((16, 3)), replicated(make_mesh(devices)))
    assert shapes_on_devices(array) == [(16, 3)] * 8


def test_banks_ages_queues_and_their_momentum_are_spread_and_nothing_else(devices):
    players = {"encoder": {"kernel": jnp.zeros((16, 2))}, "bank": jnp.zeros((16, 2))}
    optimizer = optax.partition(
        {name: optax.chain(optax.trace(0.9)) for name in players},
        {name: name for name in players},
    )
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        players=players,
        stats={"mean": jnp.zeros(16)},
        target=None,
        extra={
            "bank_ages": jnp.zeros(16, jnp.int32),
            "queue": jnp.zeros((16, 2)),
            "filled": jnp.zeros((), jnp.int32),
        },
        opt_state=optimizer.init(players),
    )
    mesh = make_mesh(devices)
    placed = jax.device_put(state, state_shardings(state, mesh, row_sharded=SPREAD))
    spread = [
        leaf
        for leaf in jax.tree.leaves(placed)
        if np.prod(shapes_on_devices(leaf)[0]) < leaf.size
    ]
    expected = [
        placed.players["bank"],
        placed.extra["bank_ages"],
        placed.extra["queue"],
        placed.opt_state.inner_states["bank"].inner_state[0].trace["bank"],
    ]
    assert sorted(map(id, spread)) == sorted(map(id, expected))
    assert {shapes_on_devices(leaf)[0][0] for leaf in spread} == {2}


def test_a_sharded_encoder_is_spread_along_its_longest_axes(devices):
    params = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 16, 32), jnp.float32),
        "scale": jax.ShapeDtypeStruct((32,), jnp.float32),
        "tall": jax.ShapeDtypeStruct((64, 32), jnp.float32),
        "odd": jax.ShapeDtypeStruct((9, 12), jnp.float32),
    }
    players = {"encoder": params, "bank": jax.ShapeDtypeStruct((16, 64), jnp.float32)}
    transformation = optax.partition(
        {name: optax.adam(0.1) for name in players}, {name: name for name in players}
    )
    state = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        players=players,
        stats={"mean": jax.ShapeDtypeStruct((32,), jnp.float32)},
        target=Network(params, {"mean": jax.ShapeDtypeStruct((32,), jnp.float32)}),
        extra={},
        opt_state=jax.eval_shape(transformation.init, players),
    )
    mesh = make_mesh(devices)
    found = state_shardings(state, mesh, row_sharded=["bank"], shard_encoder=True)
    expected = {
        "kernel": rows(mesh, axis=3),
        "scale": rows(mesh),
        "tall": rows(mesh),
        "odd": replicated(mesh),
    }
    assert found.players == {"encoder": expected, "bank": rows(mesh)}
    assert found.target == Network(expected, {"mean": replicated(mesh)})
    assert found.stats == {"mean": replicated(mesh)}
    moments = found.opt_state.inner_states["encoder"].inner_state[0]
    assert (moments.mu["encoder"], moments.nu["encoder"]) == (expected, expected)
    assert moments.count == replicated(mesh)
    plain = state_shardings(state, mesh, row_sharded=["bank"])
    assert set(jax.tree.leaves(plain.players["encoder"])) == {replicated(mesh)}


def test_nothing_is_spread_that_is_not_named(devices):
    mesh = make_mesh(devices)
    state = {"bank": jnp.zeros((16, 2)), "rival": jnp.zeros((16, 2))}
    assert state_shardings(state, mesh, row_sharded=["rival"]) == {
        "bank": replicated(mesh),
        "rival": rows(mesh),
    }
    assert set(state_shardings(state, mesh).values()) == {replicated(mesh)}


def test_shapes_alone_are_enough(devices):
    mesh = make_mesh(devices)
    state = {
        "bank": jax.ShapeDtypeStruct((16, 2), jnp.float32),
        "count": jax.ShapeDtypeStruct((), jnp.int32),
    }
    assert state_shardings(state, mesh, row_sharded=SPREAD) == {
        "bank": rows(mesh),
        "count": replicated(mesh),
    }
