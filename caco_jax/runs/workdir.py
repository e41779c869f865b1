"""The directory of a run: its lock, its configuration and its metric lines."""

import contextlib
import fcntl
import functools
import glob
import json
import logging
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from caco_jax.runs import buckets
from caco_jax.runs.distributed import is_primary
from caco_jax.schema import UserError, did_you_mean, flatten

# A key that only descriptions of runs have that were built in Python.
BUILT_OF, OBJECTS = "built_of", "objects"
# Keys of the place of the images; `RunProgress` checks that the images are the same.
_FREE_KEYS = {"data.data_dir", "data.max_resident_bytes", "data.workers"}


logger = logging.getLogger("caco_jax")
_NO_LOCK = "%s cannot be locked (%s): make sure that no other process uses it"
CompleteFn = Callable[[dict[str, Any]], dict[str, Any]]


class Workdir:
    """The files of one run; with many processes only the first writes.

    ``config.json``, ``checkpoints/`` with the newest and ``best/`` with the best by
    kNN, ``metrics.jsonl`` (a line an epoch, the same however often the run was
    interrupted), ``summary.json`` and ``lock``; ``bad_images.txt`` if there were any,
    and ``damaged/`` for damaged checkpoints.

    Args:
        path: the directory; gs://BUCKET/DIRECTORY is possible.
        complete: adds defaults of newer keys to a saved configuration.

    Raises:
        UserError: the path is of another machine, or of a bucket that cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike, *, complete: CompleteFn = lambda values: values
    ) -> None:
        self._complete = complete
        found = buckets.run_path(path)
        self.path = found if buckets.in_bucket(found) else found.absolute()
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.summary_file = self.path / "summary.json"
        self.bad_images_file = self.path / "bad_images.txt"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.damaged = self.path / "damaged"

    def claim(
        self,
        config: Mapping[str, Any],
        *,
        force_new: bool = False,
        changes: Collection[str] = (),
    ) -> None:
        """Writes the configuration into the directory, or checks that it is the same.

        Args:
            config: the whole configuration, as nested mappings.
            force_new: whether to move an existing run to ``<workdir>.old``, replacing
                an older one there.
            changes: dotted keys that may differ from those of the existing run.

        Raises:
            UserError: the directory cannot be written, or belongs to another
                configuration; nothing in it was touched.
        """
        self.require_plain_name()
        config = json.loads(json.dumps(config))
        if self.has_run() and not force_new:
            self.compare(config, changes)
            if self._completed() == config:
                return
        try:
            if self.has_run() and force_new:
                self.require_movable()
                buckets.move(self.path, self.path.with_name(self.path.name + ".old"))
            if not buckets.in_bucket(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.config_file, config)
        except OSError as error:
            raise cannot_write(self.path, error) from None

    @contextlib.contextmanager
    def claimed(
        self,
        config: Mapping[str, Any],
        *,
        force_new: bool = False,
        changes: Collection[str] = (),
        check: Callable[[], object] = lambda: None,
    ) -> Iterator[None]:
        """Calls `claim` and locks the directory for this process, as a context manager.

        Args:
            config: as of `claim`.
            force_new: as of `claim`.
            changes: as of `claim`.
            check: called before an existing run is resumed; it may raise.

        Raises:
            UserError: see `claim`; or another process has locked the directory.
        """
        how: dict[str, Any] = {"force_new": force_new, "changes": changes}
        if self.has_run():
            if not force_new:
                self.compare(config, changes)
            else:
                self.require_movable()
            with locked(self.path):
                if not force_new:
                    check()
                self.claim(config, **how)
        else:
            self.claim(config, **how)
        with locked(self.path):
            yield

    def require_plain_name(self) -> None:
        """Raises UserError for a directory name that Orbax cannot read back.

        Orbax searches its folders by glob patterns, and TensorStore accepts only UTF-8
        without backslashes.
        """
        shown = str(self.path).encode("utf-8", "backslashreplace").decode()
        if glob.has_magic(shown) or "\\" in shown:
            raise UserError(
                "--workdir: expected a path in UTF-8 without any of * ? [ \\, got "
                f"{shown}: checkpoints there could not be read back; name another "
                "directory, rename this one, or name a link to it"
            )

    def require_movable(self) -> None:
        """Raises UserError if an existing run could not be moved aside."""
        if self.has_run() and buckets.in_bucket(self.path):
            raise UserError(
                f"--force_new: expected a directory of this machine, got {self.path}, "
                "where a run cannot be moved aside; name another directory, or remove "
                "this one (gcloud storage rm -r)"
            )

    def has_run(self) -> bool:
        """Whether the directory has a run."""
        return buckets.exists(self.config_file)

    def compare(self, config: Mapping[str, Any], changes: Collection[str] = ()) -> None:
        """Checks that the existing run has this configuration.

        Keys of the place of the images may differ.

        Args:
            config: the whole configuration, as nested mappings.
            changes: dotted keys that may differ.

        Raises:
            UserError: another key differs, or there is no such key.
        """
        config = json.loads(json.dumps(config))
        theirs, ours = flatten(self._completed()), flatten(config)
        known = theirs.keys() | ours.keys()
        if theirs.get(BUILT_OF) != ours.get(BUILT_OF):
            kinds = "built in Python", "of a configuration"
            there, asked = kinds if BUILT_OF in theirs else reversed(kinds)
            raise UserError(
                f"--workdir: expected a run {asked}, got {self.path} with a run "
                f"{there}; use another workdir, or --force_new to start over (the old "
                "run is moved aside)"
            )
        for key in changes:
            if key not in known:
                hint = did_you_mean(key, known)
                raise UserError(
                    f"--resume_with_changes: expected a key, got {key!r}{hint}"
                )
        differences = [
            f"{key} ({theirs.get(key)!r} in the run, {ours.get(key)!r} now)"
            for key in sorted(known - set(changes) - _FREE_KEYS)
            if theirs.get(key) != ours.get(key)
        ]
        if differences:
            raise UserError(
                f"--workdir: expected a run of this configuration, got {self.path} "
                f"with another: {', '.join(differences)}; use another workdir, name "
                "the keys in --resume_with_changes to resume with other values, or "
                "--force_new to start over (the old run is moved aside)"
            )

    def read_config(self) -> dict[str, Any]:
        """The saved configuration.

        Raises:
            UserError: there is no run here.
        """
        if not self.has_run():
            raise UserError(
                f"--workdir: expected the directory of a run, got {self.path}: it has "
                "no config.json; run caco pretrain first"
            )
        return read_json(self.config_file)

    def _completed(self) -> dict[str, Any]:
        """The saved configuration, completed by the defaults of newer keys."""
        return json.loads(json.dumps(self._complete(self.read_config())))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The metric lines so far, oldest first; an incomplete line is left out.

        A killed process may leave an incomplete line at the end.
        """
        if not self.metrics_file.exists():
            return []
        rows = []
        for line in self.metrics_file.read_text().splitlines(keepends=True):
            with contextlib.suppress(json.JSONDecodeError):
                if line.endswith("\n"):
                    rows.append(json.loads(line))
        return rows

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds a line."""
        if buckets.in_bucket(self.path):
            self.write_metrics([*self.read_metrics(), row])
        elif is_primary():
            with self.metrics_file.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def write_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replaces all metric lines."""
        write_whole(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows))


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON value of a file of a run.

    Raises:
        UserError: the file cannot be read, or is incomplete.
    """
    try:
        with buckets.as_os_error(path):
            values = json.loads(path.read_bytes().decode())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    else:
        if isinstance(values, dict):
            return values
        reason = f"expected an object, got {type(values).__name__}"
    raise UserError(
        f"--workdir: {path} cannot be read ({reason}); put back a copy of it, or start "
        "over in another directory"
    )


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value to a JSON file atomically."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file atomically; only the first process writes.

    A file with the same content is not rewritten. The encoding is UTF-8; other bytes,
    for example in the name of an image, are written as escapes.
    """
    content = text.encode(errors="backslashreplace")
    if buckets.in_bucket(path):
        with buckets.as_os_error(path):
            if is_primary():
                path.write_bytes(content)
        return
    if not is_primary() or (path.is_file() and path.read_bytes() == content):
        return
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)


@contextlib.contextmanager
def locked(path: pathlib.Path, *, flag: str = "--workdir") -> Iterator[None]:
    """Locks a directory for this process, as a context manager.

    The kernel releases the lock when the process ends in any way.

    Args:
        path: the directory; a file ``lock`` stays in it. A bucket has no locks.
        flag: the flag that named it, for the start of messages.

    Raises:
        UserError: another process has locked it, or it is not writable.
    """
    if buckets.in_bucket(path):
        _warn_once(path, "a bucket has no locks")
        yield
        return
    try:
        file = (path / "lock").open("a")
    except OSError as error:
        raise cannot_write(path, error, flag=flag) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{flag}: expected a directory that no other process uses, got {path}; "
                "wait for the process or stop it, or name another directory"
            ) from None
        except OSError as error:  # a network file system may not support locks
            logger.warning(_NO_LOCK, path, error.strerror)
        yield


@functools.cache
def _warn_once(path: pathlib.Path, reason: str) -> None:
    logger.warning(_NO_LOCK, path, reason)


def cannot_write(
    path: pathlib.Path, error: OSError, *, flag: str = "--workdir"
) -> UserError:
    """The error of a directory that is not writable."""
    return UserError(
        f"{flag}: cannot write to {path}: {error.strerror}; name a directory that "
        "you may write to"
    )
