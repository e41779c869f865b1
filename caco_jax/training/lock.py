"""One process at a time for a directory."""

import contextlib
import fcntl
import logging
import pathlib
from collections.abc import Iterator

from caco_jax.schema import UserError

logger = logging.getLogger("caco_jax")


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """A block for which a directory is this process's alone.

    The kernel gives the lock back when the process ends, however it ends.

    Args:
        path: the directory; a file ``lock`` stays in it.

    Raises:
        UserError: another process has it, or it cannot be written.
    """
    try:
        file = (path / "lock").open("a")
    except OSError as error:
        raise cannot_write(path, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--workdir: {path} is in use by another process; wait for it or stop "
                "it, or name another directory"
            ) from None
        except OSError as error:  # a network's file system may not know locks
            logger.warning(
                "%s cannot be locked (%s): see that no other process uses it",
                path,
                error.strerror,
            )
        yield


def cannot_write(path: pathlib.Path, error: OSError) -> UserError:
    """The refusal of a directory that cannot be written."""
    return UserError(
        f"--workdir: cannot write to {path}: {error.strerror}; name a directory that "
        "you may write to"
    )
