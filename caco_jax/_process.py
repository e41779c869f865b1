"""What the system gives this process: cores and memory."""

import ctypes
import os
import sys


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def give_back_freed_memory() -> None:
    """Gives the system what was freed but kept; does nothing without glibc.

    glibc keeps freed memory for later: about 250 MB after XLA compiled a step, on top
    of which the next compilation would come.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
