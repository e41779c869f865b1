"""Runs in a bucket of Google Cloud Storage.

A bucket has objects and no directories. An object is written whole or not at all, so no
rename is needed; objects cannot be appended to or locked. A checkpoint is complete when
Orbax's last object, `COMMITTED`, exists.
"""

import contextlib
import errno
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, cast

from caco_jax._extras import require_package
from caco_jax._paths import bucket_address, local_path
from caco_jax.schema import UserError

COMMITTED = "commit_success.txt"


def run_path(path: str | os.PathLike) -> pathlib.Path:
    """The path of a run's directory, on this machine or in a bucket.

    Args:
        path: a local path, see `local_path`, or gs://BUCKET/DIRECTORY.

    Returns:
        For a bucket a path of etils, which has pathlib's methods.

    Raises:
        UserError: the path is on another machine, or the bucket cannot be read.
    """
    try:
        address = bucket_address(path)
        return local_path(path) if address is None else _open(address)
    except ValueError as error:
        raise UserError(f"--workdir: {error}") from None


def in_bucket(path: pathlib.PurePath) -> bool:
    """Whether a path of `run_path` is in a bucket."""
    return not isinstance(path, pathlib.Path)


def exists(path: pathlib.Path) -> bool:
    """Whether a file or directory exists; False if that cannot be read."""
    # Unlike Path.exists, no error in a directory without permission to search it.
    return path.exists() if in_bucket(path) else os.path.exists(path)


def size_bytes(path: pathlib.Path) -> int:
    """The size of a file."""
    found: Any = path.stat()
    return found.length if in_bucket(path) else found.st_size


def move(source: pathlib.Path, target: pathlib.Path) -> None:
    """Renames a directory and replaces what is at the new path.

    In a bucket all objects are copied before any is removed.
    """
    if not in_bucket(source):
        shutil.rmtree(target, ignore_errors=True)
        source.rename(target)
        return
    with as_os_error(source):
        if exists(target):
            _files().rm(str(target), recursive=True)
        _files().copy(str(source), str(target), recursive=True)
        _files().rm(str(source), recursive=True)


def store_of(folder: pathlib.Path) -> dict[str, str]:
    """TensorStore's specification of a folder."""
    if not in_bucket(folder):
        return {"driver": "file", "path": f"{folder}/"}
    bucket, _, path = str(folder).removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": f"{path}/"}


@contextlib.contextmanager
def as_os_error(path: pathlib.Path) -> Iterator[None]:
    """Converts errors of a bucket, raised inside, to OSError, as a disk raises."""
    try:
        yield
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:
        if not in_bucket(path) or getattr(error, "strerror", None):
            raise
        raise OSError(errno.EIO, _reason(error)) from error


def _open(address: str) -> pathlib.Path:
    require_package("gcsfs", purpose=f"--workdir: {address}")
    from etils import epath  # only needed for buckets

    files = _files()
    try:
        files.ls(address)
    except FileNotFoundError:
        pass  # there is no run yet
    except Exception as error:
        raise UserError(
            f"--workdir: cannot read {address}: {_reason(error)}; check that the "
            "bucket exists and that this machine's account may use it (gcloud auth "
            "application-default login)"
        ) from None
    return cast(pathlib.Path, epath.Path(address))


def _files() -> Any:
    """The file system that etils uses for gs://, without a cache of listings.

    No cache, because TensorStore and other processes write into the same bucket.
    """
    import fsspec  # installed by the same extra as gcsfs

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints tracebacks
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return fsspec.filesystem("gcs", finalize_on_close=True)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
