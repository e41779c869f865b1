"""Names of the processor and the accelerators, and memory sizes."""

import os
import pathlib
import platform
import resource
import sys

import jax

from caco_jax._process import usable_cores


def peak_memory_bytes() -> int:
    """Peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processor() -> str:
    """Name of the processor as the system reports it."""
    names = pathlib.Path("/proc/cpuinfo")
    if names.exists():
        for line in names.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> str:
    """Accelerators if there are any, else the processor; and the versions."""
    devices = jax.devices()
    what = f"{processor()}, {usable_cores()} cores"
    if devices[0].platform != "cpu":
        what = f"{len(devices)} x {devices[0].device_kind}"
    return f"{what}, Python {platform.python_version()}, jax {jax.__version__}"


def device_bytes(device: jax.Device) -> int | None:
    """Memory of a device, or None if it is unknown."""
    if device.platform == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return memory // jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit")
