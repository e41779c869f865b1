"""Resources of this process: CPU cores and memory."""

import ctypes
import os
import sys


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def give_back_freed_memory() -> None:
    """Returns freed memory to the operating system (glibc's malloc_trim, if present).

    glibc keeps freed memory for later: about 250 MB after XLA compiled a step, on top
    of which the next compilation would come.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
