"""One mesh over all devices: batch rows and bank rows are sharded over it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

AXIS = "data"
# State under these names has one row an entry; its rows are spread over the devices.
_ROW_SHARDED = ("bank", "bank_ages", "queue")


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


def _name(entry: Any) -> Any:
    return getattr(entry, "key", getattr(entry, "name", None))


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """A sharding for each leaf: rows of banks and queues are spread, the rest copied.

    Args:
        state: a train state, of arrays or of their shapes.
        mesh: the mesh.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        spread = leaf.ndim > 0 and any(_name(entry) in _ROW_SHARDED for entry in path)
        return rows(mesh) if spread else replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, state)
