"""Descriptions of TPU slices from libtpu, without a TPU."""

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from caco_jax.schema import UserError

# Without the first three, libtpu queries the machine for its TPU and waits for an
# answer; without the last, only one process at a time can load it.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Chip(NamedTuple):
    """The figures of a TPU chip that predictions rest on, as its maker gives them.

    Sources: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e. Interconnect
    figures there are of all links, both ways (v4: 2400 Gbit/s one way).

    Attributes:
        name: as in a topology's name.
        hbm_bytes: of main memory.
        peak_flops: bfloat16 additions and multiplications a second.
        hbm_bandwidth: bytes a second.
        link_bandwidth: bytes a second through one link, one way.
        wraps_at: an axis of a multiple of this many chips closes to a ring.
        options: libtpu's, so that one device is one chip.
        shapes: slices that are offered.
    """

    name: str
    hbm_bytes: int
    peak_flops: float
    hbm_bandwidth: float
    link_bandwidth: float
    wraps_at: int
    options: Mapping[str, Any]
    shapes: tuple[str, ...]


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
_MEGACORE = {"chip_config_name": "megacore"}
_GIB = 2**30
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 32 * _GIB, 275e12, 1200e9, 50e9, 4, _MEGACORE, _SOLID),
        Chip("v5e", 16 * _GIB, 197e12, 819e9, 50e9, 16, {}, _FLAT),
        Chip("v5p", 95 * _GIB, 459e12, 2765e9, 100e9, 4, _MEGACORE, _SOLID),
        Chip("v6e", 32 * _GIB, 918e12, 1638e9, 100e9, 16, {}, _FLAT),
    )
}


class Slice(NamedTuple):
    """Some chips, connected as a grid.

    Attributes:
        name: such as "v5e:4x4".
        chip: of which kind.
        shape: chips along each axis.
        devices: to compile for; nothing can run on them.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    devices: tuple[jax.Device, ...]


def open_slice(name: str, *, flag: str = "--topology") -> Slice:
    """The slice of a name.

    Args:
        name: CHIP:SHAPE, such as "v5e:16x16" or "v4:4x4x4".
        flag: to be named in an error.

    Raises:
        UserError: libtpu is missing, or does not know the name.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"{flag}: expected libtpu, which compiles for TPUs, got an environment "
            "without it; pip install 'caco_jax[tpu]'"
        )
    prepare_environment()
    kind, _, shape = name.partition(":")
    if kind in CHIPS and (found := _find(CHIPS[kind], shape)):
        return found
    known = ", ".join(known_names())
    raise UserError(f"{flag}: expected CHIP:SHAPE, one of {known}; got {name!r}")


def prepare_environment() -> None:
    """Sets variables for libtpu and JAX to start without a TPU; the user's are kept."""
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")


def known_names() -> Iterator[str]:
    """The offered slices that this libtpu knows."""
    for chip in CHIPS.values():
        for shape in chip.shapes:
            if _find(chip, shape) is not None:
                yield f"{chip.name}:{shape}"


def _find(chip: Chip, shape: str) -> Slice | None:
    """The slice of this shape; None where there is none."""
    # Checked here first: some shapes that make no sense end libtpu and Python with it.
    axes = chip.shapes[0].count("x") + 1
    sides = shape.split("x")
    if len(sides) != axes or not all(re.fullmatch(r"[1-9]\d?", s) for s in sides):
        return None
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{chip.name}:{shape}", **chip.options
        )
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise
        return None
    devices = tuple(description.devices)
    return Slice(f"{chip.name}:{shape}", chip, tuple(map(int, sides)), devices)
