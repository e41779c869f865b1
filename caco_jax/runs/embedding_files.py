"""Files of embeddings: parts while they are computed, then one file.

A part is written whole or not at all, and its name gives the numbers of its records, so
that a killed command can resume. Only one part is in memory at a time.
"""

import contextlib
import json
import logging
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from caco_jax.runs.workdir import locked, write_whole
from caco_jax.schema import UserError

logger = logging.getLogger("caco_jax")

FLAG = "--out"
_FEATURES, _NAMES, _LABELS, _SPLITS = "features", "names", "labels", "splits"
_DTYPES = {_FEATURES: np.dtype(np.float32), _LABELS: np.dtype(np.int32)}


class Rows(NamedTuple):
    """Embedded records of one split.

    Attributes:
        split: such as "train".
        features: float32 [m, F].
        names: [m].
        labels: int32 [m]; -1 without one.
        bad: a line for each record that was skipped.
    """

    split: str
    features: Float32[np.ndarray, "m f"]
    names: Sequence[str]
    labels: Int32[np.ndarray, " m"]
    bad: Sequence[str]


class Embedded(NamedTuple):
    """What was written.

    Attributes:
        rows: number of embedded records.
        features: number of features of each record.
        bad: number of unreadable records.
        bad_file: list of the unreadable records, if there are any.
    """

    rows: int
    features: int
    bad: int
    bad_file: pathlib.Path


def check_out(path: str | os.PathLike, *, force: bool = False) -> None:
    """Checks that `Parts.join` will be able to write a file.

    Args:
        path: the file.
        force: whether an existing file may be replaced.

    Raises:
        UserError: the suffix is unknown, the file exists, or it is a directory.
    """
    path = pathlib.Path(path)
    if path.suffix not in _WRITERS:
        raise UserError(
            f"{FLAG}: expected a name that ends in {' or '.join(_WRITERS)}, got {path}"
        )
    if os.path.isdir(path):
        raise UserError(f"{FLAG}: expected a file, got the directory {path}")
    if os.path.exists(path) and not force:
        raise UserError(
            f"{FLAG}: expected a new file, got {path}, which exists; name another "
            "file, or --force to replace it"
        )


class Parts:
    """The parts of a file, in a folder beside it.

    Args:
        out: the file that they become.
        splits: names, in the order in which their records are written.
    """

    def __init__(self, out: pathlib.Path, splits: Sequence[str]) -> None:
        self._out, self._splits = out, tuple(splits)
        self._folder = out.with_name(f"{out.name}.parts")
        self._bad_file = out.with_name(f"{out.name}.bad_images.txt")

    @contextlib.contextmanager
    def opened(self, plan: Mapping[str, Any]) -> Iterator[None]:
        """Locks the parts for this process, as a context manager.

        Args:
            plan: identifies data set and network. Parts of another plan are removed.

        Raises:
            UserError: another process has locked them, or the folder is not writable.
        """
        with _writing(self._out):
            self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder, flag=FLAG):
            with _writing(self._out):
                self._keep_those_of(json.dumps(plan, indent=2) + "\n")
            yield

    def _keep_those_of(self, plan: str) -> None:
        file = self._folder / "plan.json"
        if file.exists() and file.read_text() == plan:
            return
        files = list(self._folder.glob("*.npz"))
        if files:
            logger.info(
                "%s is of other images or of another network: starting over",
                self._folder,
            )
        for part in files:
            part.unlink()
        write_whole(file, plan)

    def _files(self) -> list[pathlib.Path]:
        found = []
        for file in self._folder.glob("*.npz"):
            split, first, _ = file.stem.rsplit("-", 2)
            if split in self._splits:
                found.append((self._splits.index(split), int(first), file))
        return [file for *_, file in sorted(found)]

    def done(self, split: str) -> int:
        """Number of finished records of a split; incomplete parts are removed."""
        done = 0
        for file in self._files():
            of, first, end = file.stem.rsplit("-", 2)
            if of != split:
                continue
            if int(first) == done and zipfile.is_zipfile(file):
                done = int(end)
            else:
                file.unlink()
        return done

    def save(self, rows: Rows, first: int, end: int) -> None:
        """Writes a part.

        Args:
            rows: its rows.
            first: the number of its first record in the split.
            end: number after its last record.

        Raises:
            UserError: it cannot be written.
        """
        file = self._folder / f"{rows.split}-{first:012}-{end:012}.npz"
        unfinished = file.with_suffix(".unfinished")
        with _writing(self._out):
            with unfinished.open("wb") as opened:
                np.savez(
                    opened,
                    features=np.asarray(rows.features, np.float32),
                    names=np.array(rows.names, np.str_),
                    labels=np.asarray(rows.labels, np.int32),
                    splits=np.full(len(rows.names), rows.split),
                    bad=np.array(rows.bad, np.str_),
                )
            unfinished.replace(file)

    def column(self, name: str) -> Iterator[np.ndarray]:
        """One array of each part in turn; empty parts are left out."""
        for file in self._files():
            with np.load(file) as part:
                if len(part[_LABELS]) or name == "bad":
                    yield part[name]

    def join(self, class_names: Sequence[str]) -> Embedded:
        """Joins the parts to the file, lists the bad records, and removes the parts.

        Args:
            class_names: names of the labels.

        Raises:
            UserError: no record was embedded, or the file cannot be written.
        """
        bad = [str(line) for lines in self.column("bad") for line in lines]
        count = sum(map(len, self.column(_LABELS)))
        if not count:
            listed = "; ".join(bad[:3])
            raise UserError(f"--source: expected images that can be read, got {listed}")
        width = next(self.column(_FEATURES)).shape[1]
        unfinished = self._out.with_name(f"{self._out.name}.unfinished")
        with _writing(self._out):
            _WRITERS[self._out.suffix](unfinished, self, count, list(class_names))
            unfinished.replace(self._out)
            if bad:
                write_whole(self._bad_file, "".join(f"{line}\n" for line in bad))
            else:
                self._bad_file.unlink(missing_ok=True)
            shutil.rmtree(self._folder)
        return Embedded(count, width, len(bad), self._bad_file)


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{FLAG}: cannot write {path}: {error.strerror or error}"
        ) from None


def _write_npz(
    file: pathlib.Path, parts: Parts, count: int, class_names: list[str]
) -> None:
    """Writes arrays with one row for each record, and the names of the classes."""
    with zipfile.ZipFile(file, "w") as archive:
        for name in (_FEATURES, _NAMES, _LABELS, _SPLITS):
            dtype = _DTYPES.get(name) or _widest(parts.column(name))
            row = next(parts.column(name)).shape[1:]
            header = {"descr": dtype.str, "fortran_order": False}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
                np.lib.format.write_array_header_1_0(
                    out, header | {"shape": (count, *row)}
                )
                for array in parts.column(name):
                    out.write(array.astype(dtype).tobytes())
        with archive.open("class_names.npy", "w") as out:
            np.lib.format.write_array(out, np.array(class_names, np.str_))


def _widest(column: Iterator[np.ndarray]) -> np.dtype:
    """The string dtype for the longest text of a column."""
    return np.result_type(*{array.dtype for array in column})


def _write_parquet(
    file: pathlib.Path, parts: Parts, count: int, class_names: list[str]
) -> None:
    """Writes a table with one row for each record; features are lists of one length."""
    import pyarrow as pa
    from pyarrow import parquet

    del count
    width = next(parts.column(_FEATURES)).shape[1]
    schema = pa.schema(
        {
            "name": pa.string(),
            "split": pa.string(),
            "label": pa.int32(),
            "class": pa.string(),
            "features": pa.list_(pa.float32(), width),
        }
    )
    columns = map(parts.column, (_NAMES, _SPLITS, _LABELS, _FEATURES))
    with parquet.ParquetWriter(file, schema) as writer:
        for names, splits, labels, features in zip(*columns, strict=True):
            known = [int(label) if label >= 0 else None for label in labels]
            values = [
                pa.array(_utf8(names)),
                pa.array(splits.tolist()),
                pa.array(known, pa.int32()),
                pa.array(
                    _utf8(None if k is None else class_names[k] for k in known),
                    pa.string(),
                ),
                pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), width),
            ]
            writer.write_batch(pa.record_batch(values, schema=schema))


def _utf8(names: Any) -> list[str | None]:
    """Names with bytes that are not UTF-8 written as escapes."""
    return [
        None if name is None else str(name).encode(errors="backslashreplace").decode()
        for name in names
    ]


_Writer = Callable[[pathlib.Path, Parts, int, list[str]], None]
_WRITERS: dict[str, _Writer] = {".npz": _write_npz, ".parquet": _write_parquet}
