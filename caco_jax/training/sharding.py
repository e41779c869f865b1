"""One mesh over all devices: batch rows and bank rows are sharded over it."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh of the devices, all that there are by default."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh(
        (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )


def rows(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """The sharding of an array whose given axis is spread over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def local_rows(mesh: Mesh, count: int) -> Int[np.ndarray, " n"]:
    """Which of so many rows are on this process's devices, rising."""
    indices = rows(mesh).addressable_devices_indices_map((count,)).values()
    return np.unique(np.concatenate([np.arange(count)[index] for index in indices]))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def on_cpu(mesh: Mesh) -> bool:
    """Whether the devices are CPUs, there or not.

    A CPU runs the gradients of convolutions 20 to 35 times slower inside loops, even of
    one turn (jax-ml/jax#12868): there loops around a network are unrolled.
    """
    return mesh.devices.flat[0].platform == "cpu"


def _names(path: tuple[Any, ...]) -> set[Any]:
    return {getattr(entry, "key", getattr(entry, "name", None)) for entry in path}


def _of_encoder(names: set[Any]) -> bool:
    """Whether they lead to an encoder's parameters or to what its optimiser keeps."""
    return "encoder" in names or {"target", "params"} <= names


def _longest_axis(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Spread along the longest axis that the devices divide; whole if none is."""
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
    """A sharding for each leaf: rows that the method names are spread, the rest copied.

    Args:
        state: a train state, of arrays or of their shapes.
        mesh: the mesh.
        row_sharded: names of state with a row an entry, as of `Method`; what an
            optimiser keeps of it has the same name.
        shard_encoder: spread the parameters of both encoders and what the optimiser
            keeps of them, too, each along its longest axis that the devices divide.
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
    """Arrays that every process has whole, on the devices of all.

    Args:
        tree: the arrays; those that are already where they shall be stay there.
        shardings: as of `jax.device_put`: one for each array, or for all of a branch.
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
    """A block that computes on this process's own devices; all processes must enter it.

    Where there is but one process, everything stays as it is.

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
