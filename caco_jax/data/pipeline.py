"""Large sets on the host: records are read, decoded and cropped ahead of the step.

What a step gets follows from the seed, the epoch and the step alone: the order of an
epoch is one permutation of the whole set, and each example's crops are drawn from a
generator of its own, seeded with its place in that order. So neither the number of
workers nor that of hosts changes a pixel, and a stream can begin at any step.

Workers are new interpreters (Grain spawns them), never forks of a process in which an
accelerator is in use. What they import here knows nothing of devices.
"""

import contextlib
import errno
import functools
import itertools
import logging
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from absl import flags
from jaxtyping import Int, Int32, UInt8

from caco_jax._cores import usable_cores
from caco_jax._extras import require_package
from caco_jax.data.decode import (
    CropSpec,
    center_crop,
    random_resized_crops,
)
from caco_jax.data.records import UNREADABLE, Records, StreamError
from caco_jax.data.resize import opencv
from caco_jax.schema import UserError

logger = logging.getLogger("caco_jax")

# What a worker makes at once. A whole batch at once would hold memory for one batch
# or two in each worker.
CHUNK_ROWS = 32
MOST_WORKERS = 16
MOST_SUBSTITUTES = 100
_WORKER_BUFFER = 2  # parts that each has ready
_SHARED_MEMORY = "/dev/shm"
_LISTED = 3  # bad images named in a message
_ALWAYS_ALLOWED = 10

T = TypeVar("T", covariant=True)


class Bad(NamedTuple):
    """A record that is no image, by its number in the set."""

    row: int
    reason: str


class Crops(NamedTuple):
    """A part of a batch.

    Attributes:
        views: uint8 [n, size, size, 3] for each view; none if no record was readable.
        bad: the records that others took the place of.
        labels: int32 [n], of those that are shown; -1 without one.
    """

    views: tuple[UInt8[np.ndarray, "n h w 3"], ...]
    bad: tuple[Bad, ...]
    labels: Int32[np.ndarray, " n"] = np.empty(0, np.int32)


class Centers(NamedTuple):
    """A part of a set as evaluation sees it.

    Attributes:
        images: uint8 [n, size, size, 3], of readable records only.
        labels: int32 [n], theirs; -1 without one.
        bad: the records left out.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int32[np.ndarray, " n"]
    bad: tuple[Bad, ...]


class Source(Protocol[T]):
    """Parts in order, each a pure function of its number; picklable."""

    def __len__(self) -> int:
        """How many parts."""

    def __getitem__(self, index: Any) -> T:
        """A part."""


def _reason(error: Exception) -> str:
    """What is wrong with a record, behind its name."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


@functools.lru_cache(maxsize=2)
def epoch_order(
    seed: tuple[int, ...], epoch: int, count: int
) -> Int[np.ndarray, " count"]:
    """The records of an epoch: a permutation from (seed, epoch) alone."""
    return np.random.default_rng((*seed, epoch)).permutation(count)


class CropSource:
    """The crops of all steps of epoch after epoch, in parts of a batch.

    Args:
        records: the whole set.
        specs: what is cropped for each view.
        seed: non-negative integers, of orders and crops.
        batch_size: examples a step, of all hosts together.
        steps: in an epoch.
        rows: of the batch that this host reads; None: all.
        chosen: the records that epochs go through; None: all.
        epochs: how many; None: there is no end. Of a stream that ends, Grain does not
            give back the last part's memory; what workers make beyond the last step is
            thrown away.
        part_rows: of a part, at most.
    """

    def __init__(
        self,
        records: Records,
        specs: Sequence[CropSpec],
        *,
        seed: tuple[int, ...],
        batch_size: int,
        steps: int,
        rows: Int[np.ndarray, " n"] | None = None,
        chosen: Int[np.ndarray, " m"] | None = None,
        epochs: int | None = None,
        part_rows: int = CHUNK_ROWS,
    ) -> None:
        self._records, self._specs, self._seed = records, tuple(specs), seed
        self._batch_size, self._steps, self._epochs = batch_size, steps, epochs
        self._chosen = chosen
        self._count = len(records) if chosen is None else len(chosen)
        rows = np.arange(batch_size) if rows is None else rows
        self._parts = np.array_split(rows, -(-len(rows) // part_rows))

    @property
    def part_bytes(self) -> int:
        """The size of the largest part."""
        rows = max(map(len, self._parts), default=0)
        return rows * sum(3 * spec.size_pixels**2 for spec in self._specs)

    @property
    def parts_per_step(self) -> int:
        """How many parts make this host's rows of a batch."""
        return len(self._parts)

    def __len__(self) -> int:
        if self._epochs is None:
            return sys.maxsize  # Grain's own word for it
        return self._epochs * self._steps * len(self._parts)

    def __getitem__(self, index: Any) -> Crops:
        step, part = divmod(int(index), len(self._parts))
        epoch, step = divmod(step, self._steps)
        order = epoch_order(self._seed, epoch, self._count)
        examples, labels = [], []
        bad: list[Bad] = []
        for place in step * self._batch_size + self._parts[part]:
            generators = self._generators(epoch, int(place))
            found = self._example(generators, int(order[place]), bad)
            if found is not None:
                examples.append(found[0])
                labels.append(found[1])
        if len(examples) < len(self._parts[part]):
            return Crops((), tuple(bad))
        views = tuple(np.stack(crops) for crops in zip(*examples, strict=True))
        return Crops(views, tuple(bad), np.array(labels, np.int32))

    def _generators(self, epoch: int, place: int) -> Iterator[np.random.Generator]:
        """What a place is drawn with: for its record, then for each substitute."""
        for attempt in itertools.count():
            yield np.random.default_rng((*self._seed, epoch, place, attempt))

    def _example(
        self, generators: Iterator[np.random.Generator], index: int, bad: list[Bad]
    ) -> tuple[list[np.ndarray], Any] | None:
        """The crops and label of a record, or of the next one that is an image."""
        attempts = range(min(self._count, MOST_SUBSTITUTES))
        for attempt, rng in zip(attempts, generators, strict=False):
            at = (index + attempt) % self._count
            row = at if self._chosen is None else int(self._chosen[at])
            try:
                record = self._records[row]
                return random_resized_crops(rng, record, self._specs), record.label
            except UNREADABLE as error:
                bad.append(Bad(row, _reason(error)))
        return None


class CenterSource:
    """Records of a set in order, as evaluation sees them, in parts.

    Args:
        records: the set.
        rows: which of them.
        size_pixels: height and width of the crops.
        part_rows: records in a part.
    """

    def __init__(
        self,
        records: Records,
        rows: Int[np.ndarray, " n"],
        *,
        size_pixels: int,
        part_rows: int,
    ) -> None:
        self._records, self._size_pixels = records, size_pixels
        self._parts = np.array_split(rows, range(part_rows, len(rows), part_rows))

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: Any) -> Centers:
        size = self._size_pixels
        images, labels = [], []
        bad: list[Bad] = []
        for row in self._parts[int(index)].tolist():
            try:
                record = self._records[row]
                images.append(center_crop(record, size_pixels=size))
            except UNREADABLE as error:
                bad.append(Bad(row, _reason(error)))
            else:
                labels.append(record.label)
        pixels = np.array(images, np.uint8).reshape(-1, size, size, 3)
        return Centers(pixels, np.array(labels, np.int32), tuple(bad))


class WorkerError(StreamError):
    """A worker process ended, or could not hand over what it made."""


class BadImagesError(UserError):
    """More images of a set are unreadable than the configuration allows."""


class BadImages:
    """Counts records that are no images, and stops where there are too many.

    At most `share` of the set may be bad; of a small set always a tenth, up to ten: a
    person's folder has its odd files. Each record counts once, in however many epochs
    it is met: so it does not matter in which order they come, and a set that is good
    enough at the end does not stop a run at its beginning.

    Args:
        name: of the set, for messages.
        count: records in the set.
        share: of them that may be bad.
    """

    def __init__(self, name: str, *, count: int, share: float) -> None:
        self._name, self._count, self._share = name, count, share
        small = max(1, min(_ALWAYS_ALLOWED, count // 10))
        self.allowed = max(small, int(share * count + 1e-9))  # 0.29 * 100 is below 29
        self.reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, bad: Iterable[Bad]) -> None:
        """Counts records, and logs each the first time.

        Raises:
            BadImagesError: there are now more than allowed.
        """
        for row, reason in bad:
            if row not in self.reasons:
                line = "\\n".join(reason.splitlines())  # a name may have two
                self.reasons[row] = line
                logger.warning("skipped: %s", line)
        if len(self) > self.allowed:
            self.stop()

    def stop(self) -> None:
        """Ends a run that cannot go on with these images.

        Raises:
            BadImagesError: always.
        """
        listed = "; ".join(self.listing()[:_LISTED])
        more = len(self) - _LISTED
        raise BadImagesError(
            f"config.data.bad_image_share: want at most {self.allowed} of the "
            f"{self._count} images of {self._name} unreadable (a share of "
            f"{self._share:g}), got {len(self)} so far: {listed}"
            f"{f'; and {more} more' if more > 0 else ''}; mend or remove them, or "
            "allow a larger share"
        )

    def listing(self) -> list[str]:
        """Why each was skipped, in the set's order."""
        return [self.reasons[row] for row in sorted(self.reasons)]


def worker_count(workers: int | None) -> int:
    """The number of worker processes; None: one a core, at most 16."""
    return min(usable_cores(), MOST_WORKERS) if workers is None else workers


def fitting_workers(workers: int, part_bytes: int, *, held: int) -> int:
    """As many workers as the shared memory has room for, with a word if that is fewer.

    Containers often have 64 MB of it, which workers hand their parts over in.

    Args:
        workers: that are wanted.
        part_bytes: of a part.
        held: parts that the receiver holds at once.

    Returns:
        At most as many; 0, threads instead, if there is no room for one.
    """
    free = _shared_bytes()
    if free is None or not workers:
        return workers
    # Of each: those that wait, one that is made, one that is handed over.
    each = part_bytes * (_WORKER_BUFFER + 2)
    fitting = max(min(workers, (free - part_bytes * held) // max(each, 1)), 0)
    if fitting < workers:
        needed = each * workers + part_bytes * held
        logger.warning(
            "data.workers: %d worker processes want %.0f MB of shared memory, %s has "
            "%.0f MB free: using %s; a larger one (docker run --shm-size=8g) is faster",
            workers,
            needed / 1e6,
            _SHARED_MEMORY,
            free / 1e6,
            f"{fitting} of them" if fitting else "threads instead",
        )
    return fitting


def _shared_bytes() -> int | None:
    """Free shared memory; None where the system does not keep it in a directory."""
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
    """The parts of a source from the first on, in order, made ahead.

    Args:
        source: what is made; workers get a copy of it.
        workers: processes; 0: threads of this one.
        first: the number of the first part.

    Yields:
        An iterator over parts. The workers begin at once, and end with the block.

    Raises:
        UserError: Grain is not installed.
        WorkerError: by the iterator, where a worker ended.
    """
    grain = require_package("grain", purpose="reading images ahead")
    threads = min(usable_cores(), MOST_WORKERS) if workers == 0 else 0
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    parts = grain.MapDataset.source(source)[first:].to_iter_dataset(read)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain asks for its own, and fails without
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(workers, _WORKER_BUFFER)
        parts = parts.mp_prefetch(options, worker_init_fn=_start_worker)
    iterator = iter(parts)
    iterator.start_prefetch()
    # Not Grain's own: one that is still held when Python ends complains.
    handed_out = _explained(iterator)
    try:
        yield handed_out
    finally:
        handed_out.close()
        iterator.close()


def _explained(parts: Iterator[T]) -> Generator[T]:
    """The parts; where a worker ended, one line says how."""
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
    """Why a worker may have ended, and what to do."""
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
    """Leaves the other cores to the other workers, and ends when the parent does."""
    del index, count
    opencv().setNumThreads(1)
    # A terminal's Ctrl-C and a scheduler's SIGTERM reach the parent as well, which
    # ends its workers itself, and may want some more batches before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Where it is killed it cannot: workers would wait for ever to hand over images.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def join_steps(
    parts: Iterator[Crops], count: int, *, steps: int, bad: BadImages
) -> tuple[UInt8[np.ndarray, "s n h w 3"], ...]:
    """The next parts as the batches of some steps.

    Args:
        parts: of a `CropSource`.
        count: how many parts.
        steps: that they are for.
        bad: counts what was skipped.

    Returns:
        For each view, uint8 [S, n, size, size, 3].

    Raises:
        BadImagesError: too many images are bad.
    """
    chunks = list(itertools.islice(parts, count))
    unreadable = [failed for chunk in chunks for failed in chunk.bad]
    joined = []
    if all(chunk.views for chunk in chunks):
        views = range(len(chunks[0].views))
        joined = [np.concatenate([c.views[view] for c in chunks]) for view in views]
    # They are memory shared with a worker, which a traceback would hold on to.
    del chunks
    bad.add(unreadable)
    if not joined:
        bad.stop()
    return tuple(view.reshape(steps, -1, *view.shape[1:]) for view in joined)
