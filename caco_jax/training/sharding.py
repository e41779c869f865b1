"""Sharding: a mesh over all devices, which rows of batch and bank are spread over."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh of the devices, by default of all."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh(
        (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )


def rows(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """The sharding of an array whose given axis is spread over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def local_rows(mesh: Mesh, count: int) -> Int[np.ndarray, " n"]:
    """Numbers of the rows that are on this process's devices, rising."""
    indices = rows(mesh).addressable_devices_indices_map((count,)).values()
    return np.unique(np.concatenate([np.arange(count)[index] for index in indices]))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def on_cpu(mesh: Mesh) -> bool:
    """Whether the devices of a mesh, real or abstract, are CPUs.

    On a CPU, gradients of convolutions are 20 to 35 times slower inside loops, even of
    one iteration (jax-ml/jax#12868): loops around a network are unrolled there.
    """
    return mesh.devices.flat[0].platform == "cpu"


def _names(path: tuple[Any, ...]) -> set[Any]:
    return {getattr(entry, "key", getattr(entry, "name", None)) for entry in path}


def _of_encoder(names: set[Any]) -> bool:
    """Whether a path leads to parameters of an encoder or to their optimiser state."""
    return "encoder" in names or {"target", "params"} <= names


def _longest_axis(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Shards the longest axis that the devices divide; replicates if there is none."""
    fitting = [axis for axis, size in enumerate(shape) if size % mesh.size == 0]
    if not fitting:
        return replicated(mesh)
    return rows(mesh, axis=max(fitting, key=lambda axis: shape[axis]))


def state_shardings(
    state: Any,
    mesh: Mesh,
    *,
    row_sharded: Collection[str] = (),
    shard_encoder: bool = False,
) -> Any:
    """A sharding for each leaf: arrays that the method names by row, others replicated.

    Args:
        state: a train state of arrays or shapes.
        mesh: the mesh.
        row_sharded: names of arrays with one row for each entry, see `Method`; their
            optimiser state has the same names.
        shard_encoder: whether to shard the parameters and optimiser state of both
            encoders, each array along its longest axis that the number of devices
            divides.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = _names(path)
        if leaf.ndim > 0 and names & set(row_sharded):
            return rows(mesh)
        if shard_encoder and _of_encoder(names):
            return _longest_axis(mesh, leaf.shape)
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, state)


def place(tree: Any, shardings: Any) -> Any:
    """Puts arrays, which every process has whole, on the devices of all processes.

    Args:
        tree: the arrays; those with the right sharding are not moved.
        shardings: one for each array or for a branch, see `jax.device_put`.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(
            host.shape, sharding, lambda index: host[index]
        )

    return jax.tree.map(
        lambda sharding, branch: jax.tree.map(lambda leaf: put(leaf, sharding), branch),
        shardings,
        tree,
    )


@contextlib.contextmanager
def alone(tree: Any, mesh: Mesh) -> Iterator[Any]:
    """A block that computes on this process's own devices; all processes enter it.

    With one process it changes nothing.

    Args:
        tree: arrays on the mesh's devices.
        mesh: of all processes.

    Yields:
        The arrays, whole, on the devices of this process.
    """
    if jax.process_count() == 1:
        yield tree
        return
    whole = jax.jit(lambda leaves: leaves, out_shardings=replicated(mesh))(tree)
    local = make_mesh(jax.local_devices())
    with jax.set_mesh(local):
        yield jax.device_put(jax.device_get(whole), replicated(local))
