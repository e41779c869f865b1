"""Input pipeline of streamed data sets: reads, decodes and crops ahead of the step.

The batch of a step follows from the seed, the epoch and the step alone: the order of an
epoch is one permutation of the whole set, and the crops of each example are drawn from
its own generator, seeded by its position in that order. So neither the number of
workers nor of hosts changes a pixel, and a stream can start at any step.
"""

import functools
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Shaped, UInt8

from caco_jax.data.decode import CropSpec, random_resized_crops
from caco_jax.data.records import UNREADABLE, Record, Records
from caco_jax.schema import UserError

logger = logging.getLogger("caco_jax")

# Rows that a worker makes at once. Whole batches would need memory for one or two
# batches in each worker.
CHUNK_ROWS = 32
MOST_SUBSTITUTES = 100
_LISTED = 3  # number of bad images named in a message
_ALWAYS_ALLOWED = 10


class Bad(NamedTuple):
    """An unreadable record, by its number in the set."""

    row: int
    reason: str


class Crops(NamedTuple):
    """A part of a batch.

    Attributes:
        views: uint8 [n, size, size, 3] for each view; empty if no record was readable.
        bad: the unreadable records, which were substituted.
        labels: int32 [n], of the records in `views`; -1 without one.
    """

    views: tuple[UInt8[np.ndarray, "n h w 3"], ...]
    bad: tuple[Bad, ...]
    labels: Int32[np.ndarray, " n"] = np.empty(0, np.int32)


class Centers(NamedTuple):
    """A part of a data set for evaluation.

    Attributes:
        images: [n, ...], of readable records only.
        labels: int32 [n], their labels; -1 without one.
        names: their names.
        bad: the unreadable records, which are left out.
    """

    images: Shaped[np.ndarray, "n *example"]
    labels: Int32[np.ndarray, " n"]
    names: tuple[str, ...]
    bad: tuple[Bad, ...]


def _reason(error: Exception) -> str:
    """The name of a record and the reason why it is unreadable."""
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
    """The crops of all steps of all epochs, in parts of a batch.

    Args:
        records: the whole set.
        specs: the crop of each view.
        seed: non-negative integers, the seed of orders and crops.
        batch_size: examples in one step, over all hosts together.
        steps: steps in an epoch.
        rows: rows of the batch that this host reads; None: all.
        chosen: the records of an epoch; None: all.
        epochs: number of epochs; None: endless. Grain does not return the memory of the
            last part of a finite stream; parts that workers make beyond the last step
            are discarded.
        part_rows: largest number of rows in a part.
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
        """Number of parts that make this host's rows of a batch."""
        return len(self._parts)

    def __len__(self) -> int:
        if self._epochs is None:
            return sys.maxsize  # the name that Grain expects
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
        """Random generators of a position: for its record, then for each substitute."""
        for attempt in itertools.count():
            yield np.random.default_rng((*self._seed, epoch, place, attempt))

    def _example(
        self, generators: Iterator[np.random.Generator], index: int, bad: list[Bad]
    ) -> tuple[list[np.ndarray], Any] | None:
        """The crops and label of a record, or of the next readable one."""
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
    """Records of a set in order, for evaluation, in parts.

    Args:
        records: the set.
        rows: numbers of the records.
        fit: function from a record to an example; all have one shape.
        part_rows: records in a part.
    """

    def __init__(
        self,
        records: Records,
        rows: Int[np.ndarray, " n"],
        *,
        fit: Callable[[Record], Shaped[np.ndarray, "*example"]],
        part_rows: int,
    ) -> None:
        self._records, self._fit = records, fit
        self._parts = np.array_split(rows, range(part_rows, len(rows), part_rows))

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: Any) -> Centers:
        images, labels, names = [], [], []
        bad: list[Bad] = []
        for row in self._parts[int(index)].tolist():
            try:
                record = self._records[row]
                images.append(self._fit(record))
            except UNREADABLE as error:
                bad.append(Bad(row, _reason(error)))
            else:
                labels.append(record.label)
                names.append(record.name)
        return Centers(
            np.stack(images) if images else np.empty(0, np.uint8),
            np.array(labels, np.int32),
            tuple(names),
            tuple(bad),
        )


class BadImagesError(UserError):
    """More images of a set are unreadable than the configuration allows."""


class BadImages:
    """Counts unreadable records, and stops if there are too many.

    At most `share` of the set may be bad; in a small set a tenth of it, up to ten
    images, is always allowed. Each record counts once, in however many epochs it is
    read: so the order does not matter, and a set that is good enough at the end does
    not stop a run at its start.

    Args:
        name: name of the set, for messages.
        count: number of records in the set.
        share: largest share of bad records.
    """

    def __init__(self, name: str, *, count: int, share: float) -> None:
        self._name, self._count, self._share = name, count, share
        small = max(1, min(_ALWAYS_ALLOWED, count // 10))
        self.allowed = max(small, int(share * count + 1e-9))  # 0.29 * 100 is below 29
        self.reasons: dict[int, str] = {}
        self._lock = threading.Lock()  # training prefetches while evaluation reads

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, bad: Iterable[Bad]) -> None:
        """Counts records, and logs each one once.

        Raises:
            BadImagesError: there are now more than allowed.
        """
        with self._lock:
            for row, reason in bad:
                if row not in self.reasons:
                    line = "\\n".join(
                        reason.splitlines()
                    )  # a name may contain line breaks
                    self.reasons[row] = line
                    logger.warning("skipped: %s", line)
        if len(self) > self.allowed:
            self.stop()

    def stop(self) -> None:
        """Ends a run that has too many unreadable images.

        Raises:
            BadImagesError: always.
        """
        listed = "; ".join(self.listing()[:_LISTED])
        more = len(self) - _LISTED
        raise BadImagesError(
            f"config.data.bad_image_share: expected at most {self.allowed} of the "
            f"{self._count} images of {self._name} unreadable (a share of "
            f"{self._share:g}), got {len(self)} so far: {listed}"
            f"{f'; and {more} more' if more > 0 else ''}; mend or remove them, or "
            "allow a larger share"
        )

    def listing(self) -> list[str]:
        """The reason why each was skipped, in the set's order."""
        return [self.reasons[row] for row in sorted(self.reasons)]


def join_steps(
    parts: Iterator[Crops], count: int, *, steps: int, bad: BadImages
) -> tuple[UInt8[np.ndarray, "s n h w 3"], ...]:
    """Joins the next parts to the batches of some steps.

    Args:
        parts: parts of a `CropSource`.
        count: number of parts.
        steps: number of steps.
        bad: counter of skipped records.

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
    # They are memory shared with a worker, which a traceback would keep alive.
    del chunks
    bad.add(unreadable)
    if not joined:
        bad.stop()
    return tuple(view.reshape(steps, -1, *view.shape[1:]) for view in joined)
