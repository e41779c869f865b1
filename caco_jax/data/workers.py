"""Prefetching streams: parts of large sets, made by threads or worker processes.

Workers are new interpreters that Grain spawns, never forks of a process that uses an
accelerator. The modules that they import use no devices.
"""

import contextlib
import errno
import logging
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from multiprocessing import resource_tracker
from typing import Any, Protocol, TypeVar

from absl import flags

from caco_jax._extras import require_package
from caco_jax._process import usable_cores
from caco_jax.data.records import StreamError
from caco_jax.data.resize import opencv

logger = logging.getLogger("caco_jax")

MOST_WORKERS = 16
_WORKER_BUFFER = 2  # number of parts that each worker keeps ready
_SHARED_MEMORY = "/dev/shm"

T = TypeVar("T", covariant=True)


class Source(Protocol[T]):
    """Parts in order, each a pure function of its number; picklable."""

    def __len__(self) -> int:
        """Number of parts."""

    def __getitem__(self, index: Any) -> T:
        """A part."""


class WorkerError(StreamError):
    """A worker process died, or could not pass on its result."""


def worker_count(workers: int | None) -> int:
    """The number of worker processes; None: one for each core, at most 16."""
    return min(usable_cores(), MOST_WORKERS) if workers is None else workers


def fitting_workers(workers: int, part_bytes: int, *, held: int) -> int:
    """Limits the workers to the free shared memory, with a warning if it does.

    Workers pass their parts in shared memory, of which containers often have only 64
    MB.

    Args:
        workers: requested number of workers.
        part_bytes: size of a part.
        held: number of parts that the receiver holds at once.

    Returns:
        At most as many; 0, for threads instead, if there is no space for one.
    """
    free = _shared_bytes()
    if free is None or not workers:
        return workers
    # For each worker: the ready parts, one in work, one being passed on.
    each = part_bytes * (_WORKER_BUFFER + 2)
    fitting = max(min(workers, (free - part_bytes * held) // max(each, 1)), 0)
    if fitting < workers:
        needed = each * workers + part_bytes * held
        logger.warning(
            "data.workers: %d worker processes need %.0f MB of shared memory, %s has "
            "%.0f MB free: using %s; a larger one (docker run --shm-size=8g) is faster",
            workers,
            needed / 1e6,
            _SHARED_MEMORY,
            free / 1e6,
            f"{fitting} of them" if fitting else "threads instead",
        )
    return fitting


def _shared_bytes() -> int | None:
    """Free shared memory; None if the system has no directory for it."""
    if sys.platform != "linux":
        return None
    try:
        return shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return 0


@contextlib.contextmanager
def stream(
    source: Source[T], *, workers: int = 0, first: int = 0
) -> Iterator[Iterator[T]]:
    """Prefetches the parts of a source in order, as a context manager.

    Args:
        source: the source; each worker gets a copy.
        workers: number of worker processes; 0: threads of this one.
        first: number of the first part.

    Yields:
        An iterator over parts. The workers start at once, and end with the block.

    Raises:
        UserError: Grain is not installed.
        WorkerError: (raised by the iterator) a worker died.
    """
    grain = require_package("grain", purpose="reading images ahead")
    threads = min(usable_cores(), MOST_WORKERS) if workers == 0 else 0
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    parts = grain.MapDataset.source(source)[first:].to_iter_dataset(read)
    if workers:
        if (
            not flags.FLAGS.is_parsed()
        ):  # Grain reads its own flags, and fails without them
            flags.FLAGS.mark_as_parsed()
        _start_tracker()
        options = grain.MultiprocessingOptions(workers, _WORKER_BUFFER)
        parts = parts.mp_prefetch(options, worker_init_fn=_start_worker)
    iterator = iter(parts)
    iterator.start_prefetch()
    # Not Grain's own iterator, which warns if it still exists when Python exits.
    handed_out = _explained(iterator)
    try:
        yield handed_out
    finally:
        handed_out.close()
        iterator.close()


def _start_tracker() -> None:
    """Starts Python's resource tracker for shared memory, with its warnings silenced.

    A signal or the end of a run ends workers while they pass on a part. The tracker
    frees that memory; its warning would look like a fault of the run.
    """
    option = "ignore:resource_tracker"
    sys.warnoptions.append(option)  # in the new process, not in this one
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(option)


def _explained(parts: Iterator[T]) -> Generator[T]:
    """The parts; a worker's death is raised as a one-line message."""
    try:
        yield from parts
    except RuntimeError as error:
        ended = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
        if ended is None:
            raise
        raise WorkerError(_cause_of_death(int(ended[1]))) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise WorkerError(_cause_of_death(-signal.SIGBUS)) from None
    except MemoryError:
        raise WorkerError(_cause_of_death(-signal.SIGKILL)) from None


def _cause_of_death(status: int) -> str:
    """The reason why a worker may have died, and what to do."""
    fewer = "use fewer data.workers, or threads with data.workers=0"
    if status == -signal.SIGBUS:
        why = f"{_SHARED_MEMORY} is full; make it larger (docker run --shm-size=8g), "
        return f"data.workers: a worker could not hand over its images, {why}or {fewer}"
    if status == -signal.SIGKILL:
        why = f"was killed, most often since the memory is used up; {fewer}"
    elif status < 0:
        name = signal.Signals(-status).name
        why = f"ended by {name}, maybe in the decoder of a damaged image; {fewer}"
    else:
        why = f"ended with status {status}, see the lines above; or {fewer}"
    return f"data.workers: a worker {why}"


def _start_worker(index: int, count: int) -> None:
    """Starts a worker: OpenCV on one thread, and an exit when the parent exits."""
    del index, count
    opencv().setNumThreads(1)
    # A terminal's Ctrl-C and a scheduler's SIGTERM reach the parent as well, which
    # ends its workers itself, and may need some more batches before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # A killed parent cannot end its workers, which would wait for ever to pass on
    # images.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
