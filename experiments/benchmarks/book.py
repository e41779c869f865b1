"""A file of results that several processes fill and that later commands extend."""

import contextlib
import fcntl
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from caco_jax.runs.workdir import write_whole
from caco_jax.schema import require

Row = dict[str, Any]


class Piece(NamedTuple):
    """One run of many.

    Attributes:
        stage: "trial" or "final".
        arm: name of the arm.
        number: number of the trial, or a seed.
    """

    stage: str
    arm: str
    number: int


class Book:
    """The file of all results; several processes write into it.

    Args:
        path: JSON.
        plan: settings that all rows share; a file with another plan is refused.
    """

    def __init__(self, path: pathlib.Path, plan: Mapping[str, Any]) -> None:
        self.path, self._plan = path, json.loads(json.dumps(plan))
        self._locks = path.with_suffix(".locks")
        self._locks.mkdir(parents=True, exist_ok=True)
        found = self._read()
        require(
            found["plan"] == self._plan,
            f"--out: expected measurements of {self._plan}, {path} has "
            f"those of {found['plan']}; name another file",
        )

    def rows(self) -> dict[Piece, Row]:
        """The results so far."""
        rows = self._read()["rows"]
        return {Piece(row["stage"], row["arm"], row["number"]): row for row in rows}

    def add(self, piece: Piece, row: Row) -> None:
        """Adds the result of a piece."""
        with self._lock("book", wait=True):
            rows = {**self.rows(), piece: {**row, **piece._asdict()}}
            book = {"plan": self._plan, "rows": list(rows.values())}
            write_whole(self.path, json.dumps(book, indent=1) + "\n")

    @contextlib.contextmanager
    def claim(self, piece: Piece) -> Iterator[bool]:
        """Whether this process may do the piece; a claim ends with its process."""
        with self._lock("_".join(map(str, piece)), wait=False) as mine:
            yield mine

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"plan": self._plan, "rows": []}
        return json.loads(self.path.read_text())

    @contextlib.contextmanager
    def _lock(self, name: str, *, wait: bool) -> Iterator[bool]:
        with (self._locks / name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True
