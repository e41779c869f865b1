"""Shared code of all commands: reading recipes, one-line messages for mistakes."""

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, NoReturn

import jax

from caco_jax.config.recipe import load_recipe, override
from caco_jax.config.sections import ExperimentConfig, experiment_config
from caco_jax.runs.distributed import AgreedError, is_primary
from caco_jax.runs.preemption import REQUEUE_STATUS, Stopped
from caco_jax.schema import UserError, as_line

_LOOP_CLOSED = "Event loop is closed"


def read_config(recipe: str, assignments: Sequence[str]) -> ExperimentConfig:
    """The validated configuration of a recipe with changed values."""
    return experiment_config(override(load_recipe(recipe), assignments))


def run(main: Callable[[], Any]) -> None:
    """Runs a command: a `UserError` becomes one line on stderr and status 2.

    Among many processes only one prints it. Divergence is status 1; a run that was
    stopped by a signal and can be resumed is `REQUEUE_STATUS`.
    """
    # force: an imported library has added a handler to the root logger.
    logging.basicConfig(
        format="%(levelname)s: %(message)s", level=logging.WARNING, force=True
    )
    logging.getLogger("caco_jax").setLevel(logging.INFO)
    # Orbax logs a traceback of errors that it raises too; we print them in one line.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _spare_writers()
    try:
        main()
    except AgreedError as error:
        if error.ours:
            _say("error", error)
        sys.exit(2)
    except UserError as error:
        _say("error", error)
        leave(2)
    except Stopped as error:
        if is_primary():
            _say("stopped", error)
        sys.exit(REQUEUE_STATUS)
    except FloatingPointError as error:
        if is_primary():  # all have the same figures
            _say("stopped", error)
        sys.exit(1)
    except (RuntimeError, AssertionError):
        missing = missing_devices()
        if missing is None:
            raise
        _say("error", UserError(missing))
        sys.exit(2)


def missing_devices() -> str | None:
    """Advice if JAX has no device to run on; None if it has one."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = os.environ.get("JAX_PLATFORMS", "")
        # JAX fails with an empty assertion if no requested platform is available.
        said = (str(error).splitlines() or ["JAX finds none here"])[0]
        reason = said.partition(" (set JAX_PLATFORMS")[0].rstrip(".")
        return (
            f"JAX_PLATFORMS: expected a platform that JAX finds here, got {wanted!r}: "
            f"{reason}; JAX_PLATFORMS=cpu runs on the processor; caco_jax[cuda] and "
            "caco_jax[tpu] are for accelerators"
        )
    return None


def leave(status: int) -> NoReturn:
    """Ends this process for a reason that is unknown to the other processes.

    JAX would wait for them first, and they may wait for this process.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def give_up(message: str) -> NoReturn:
    """Ends this process with one line, from any thread."""
    with contextlib.suppress(OSError, ValueError):
        print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(2)


def _say(what: str, error: BaseException) -> None:
    """Prints an error, one line for each of its messages."""
    lines = error.lines if isinstance(error, UserError) else (as_line(str(error)),)
    for line in lines:
        print(f"{what}: {line}", file=sys.stderr)


def _spare_writers() -> None:
    """Stops TensorStore's writer threads from printing errors from now on.

    After a failed save the thread that waited for them has ended, and they report that.
    """
    raised, ignored = sys.excepthook, sys.unraisablehook
    if hasattr(ignored, "spares_writers"):
        return

    def print_raised(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if str(error) != _LOOP_CLOSED:
            raised(kind, error, trace)

    def print_ignored(unraisable: Any) -> None:
        if str(unraisable.exc_value) != _LOOP_CLOSED:
            ignored(unraisable)

    print_ignored.spares_writers = True  # type: ignore[attr-defined]
    sys.excepthook, sys.unraisablehook = print_raised, print_ignored


def aside(flags: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """Sends what is printed inside to the standard error if --json is given."""
    if flags.json:
        return contextlib.redirect_stdout(sys.stderr)
    return contextlib.nullcontext()


def print_json(flags: argparse.Namespace, result: Any) -> None:
    """Prints a result as one JSON object if --json is given."""
    if flags.json:
        print(json.dumps(result, default=str))


@contextlib.contextmanager
def as_user_error(flag: str) -> Iterator[None]:
    """Converts a ValueError raised inside to a UserError about this flag."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from None
