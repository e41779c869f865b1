"""Embeds a whole data set into a file; rerun the same command to resume."""

import contextlib
import hashlib
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from caco_jax.data.dataset import Dataset
from caco_jax.data.fitting import embedded_splits
from caco_jax.data.pipeline import Centers, CenterSource
from caco_jax.data.records import (
    ArrayRecords,
    FolderRecords,
    Record,
    Records,
    SourceGoneError,
    StreamError,
)
from caco_jax.data.workers import stream
from caco_jax.evaluation.checks import require_finite
from caco_jax.evaluation.features import extract_features, make_features
from caco_jax.nets.functions import Network
from caco_jax.runs.embedding_files import Embedded, Parts, Rows, check_out
from caco_jax.runs.preemption import Stop, Stopped
from caco_jax.runs.run import Run
from caco_jax.schema import UserError

logger = logging.getLogger("caco_jax")

_BATCH_ROWS = 128
_PART_ROWS = 8 * _BATCH_ROWS  # work that is lost by a kill
_SECONDS_BETWEEN_LINES = 30.0

FitFn = Callable[[Record], np.ndarray]


def embed_dataset(
    run: Run,
    dataset: Dataset,
    out: str | os.PathLike,
    *,
    kind: str = "backbone",
    force: bool = False,
    stop: Stop | None = None,
) -> Embedded:
    """Writes features, names and labels (if any) of all examples of a data set.

    Images are converted to the size and channels of the run's images. The data set may
    be larger than the memory. Finished parts are kept beside the file until the end:
    the same call resumes from them.

    Args:
        run: the run whose network is used.
        dataset: the data set; all its splits are embedded.
        out: a file, .npz or .parquet.
        kind: "backbone" for the features of evaluation, "embedding" for the projector's
            output.
        force: whether to replace a file that exists.
        stop: called after every batch; True stops.

    Raises:
        UserError: the set does not fit the network, no image of it can be read, a
            feature is not finite, or the file cannot be written.
        Stopped: `stop` returned True, or the images can no longer be read; rerun to
            resume.
    """
    path = pathlib.Path(out)
    check_out(path, force=force)
    own = run.pretraining.data
    size_pixels = run.pretraining.views.largest_photo_pixels
    try:
        splits = embedded_splits(dataset, own, size_pixels=size_pixels)
    except ValueError as error:
        raise UserError(f"--source: {error}") from None
    compute = make_features(
        run.pretraining.encoder, run.pretraining.evaluation_input(), kind=kind
    )

    def features(examples: np.ndarray) -> np.ndarray:
        found = extract_features(compute, run.network, examples, batch_size=_BATCH_ROWS)
        try:
            require_finite(np.isfinite(found).all())
        except ValueError as error:
            raise UserError(f"--workdir: of {dataset.name}: {error}") from None
        return found

    parts = Parts(path, tuple(splits))
    with parts.opened(_plan(run, dataset, splits, kind)):
        watch = _Watch(sum(len(records) for records, _ in splits.values()), stop)
        try:
            for split, (records, fit) in splits.items():
                _embed_split(split, records, fit, features, parts, watch)
        except StreamError as error:
            kind_of_end = Stopped if isinstance(error, SourceGoneError) else UserError
            raise kind_of_end(f"{error}; {watch.kept()}") from None
        return parts.join(dataset.class_names)


def _embed_split(
    split: str,
    records: Records,
    fit: FitFn,
    features: Callable[[np.ndarray], np.ndarray],
    parts: Parts,
    watch: "_Watch",
) -> None:
    """Embeds the remaining examples of a split, and saves them in parts."""
    first = end = parts.done(split)
    watch.skip(first)
    source = CenterSource(
        records, np.arange(first, len(records)), fit=fit, part_rows=_BATCH_ROWS
    )
    waiting: list[Rows] = []
    try:
        with _pieces(source, records) as pieces:
            for piece in pieces:
                waiting.append(_rows(split, piece, features))
                end += len(piece.labels) + len(piece.bad)
                if end - first >= _PART_ROWS:
                    parts.save(_joined(waiting), first, end)
                    waiting, first = [], end
                watch.advance(len(piece.labels) + len(piece.bad))
    finally:
        if waiting:
            parts.save(_joined(waiting), first, end)


@contextlib.contextmanager
def _pieces(source: CenterSource, records: Records) -> Iterator[Iterator[Centers]]:
    """The parts of a source, prefetched unless they are in memory."""
    if isinstance(records, ArrayRecords):
        yield (source[index] for index in range(len(source)))
    else:
        with stream(source) as pieces:
            yield pieces


def _rows(
    split: str, piece: Centers, features: Callable[[np.ndarray], np.ndarray]
) -> Rows:
    for _, reason in piece.bad:
        logger.warning("skipped: %s", _line(reason))
    found = features(piece.images) if len(piece.images) else np.empty((0, 0))
    bad = tuple(_line(reason) for _, reason in piece.bad)
    return Rows(split, found, piece.names, piece.labels, bad)


def _line(reason: str) -> str:
    return "\\n".join(reason.splitlines())  # a name may contain line breaks


def _joined(pieces: Sequence[Rows]) -> Rows:
    """The rows of pieces of one split."""
    found = [piece.features for piece in pieces if len(piece.features)]
    return Rows(
        pieces[0].split,
        np.concatenate(found) if found else np.empty((0, 0)),
        [name for piece in pieces for name in piece.names],
        np.concatenate([piece.labels for piece in pieces]),
        [line for piece in pieces for line in piece.bad],
    )


class _Watch:
    """Logs the progress, and stops on request.

    Args:
        total: number of records.
        stop: whether to stop; None: never.
    """

    def __init__(self, total: int, stop: Stop | None) -> None:
        self._total, self._stop = total, stop or Stop()
        self._said = time.monotonic()
        self._before = self._done = 0
        self._begun = self._said

    def kept(self) -> str:
        """The message about finished parts if the command stops now."""
        return (
            f"{self._done:,} of {self._total:,} images are done; rerun the same "
            "command to resume"
        )

    def skip(self, count: int) -> None:
        """Counts records of an earlier command."""
        if count:
            logger.info("%s images were done before", f"{count:,}")
        self._before += count
        self._done += count

    def advance(self, count: int) -> None:
        """Counts records; raises Stopped if the process has to stop."""
        self._done += count
        now = time.monotonic()
        if now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            speed = (self._done - self._before) / (now - self._begun)
            logger.info(
                "%s of %s images, %.0f images/s",
                f"{self._done:,}",
                f"{self._total:,}",
                speed,
            )
        if self._stop.requested() and self._done < self._total:
            raise Stopped(self.kept())


def _plan(
    run: Run, dataset: Dataset, splits: Mapping[str, tuple[Records, Any]], kind: str
) -> dict[str, Any]:
    """Identifies data set and network: parts of others are not reused."""
    return {
        "features": kind,
        "network": _network_digest(run.network),
        "images": dataset.name,
        "splits": {
            split: {"records": len(records), "names": _names_digest(records)}
            for split, (records, _) in splits.items()
        },
        "content": dataset.digest(),
    }


def _network_digest(network: Network) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(network):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _names_digest(records: Records) -> str | None:
    """A digest of the file names; records without names are identified by number."""
    if not isinstance(records, FolderRecords):
        return None
    digest = hashlib.sha256()
    for index in range(len(records)):
        digest.update(os.fsencode(records.path(index)) + b"\0")
    return digest.hexdigest()
