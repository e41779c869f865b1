"""What machine a time or a memory figure is of."""

import os
import pathlib
import platform
import resource
import sys

import jax

from caco_jax._process import usable_cores


def peak_memory_bytes() -> int:
    """The most memory that this process held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processor() -> str:
    """The processor's name, as the system says it."""
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
    """The memory of a device, or None where it does not say."""
    if device.platform == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return memory // jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit")
