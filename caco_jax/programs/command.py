"""What all commands share: reading recipes, one clear line for a caller's mistake."""

import contextlib
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
    """A recipe file with replaced values, validated."""
    return experiment_config(override(load_recipe(recipe), assignments))


def run(main: Callable[[], Any]) -> None:
    """Runs a command: a `UserError` becomes one line on stderr and status 2.

    One line in all, of many processes that know of it. Divergence is status 1; a run
    that was told to end, and can be continued, is `REQUEUE_STATUS`.
    """
    # An imported library has given the root logger a handler of its own: by force.
    logging.basicConfig(
        format="%(levelname)s: %(message)s", level=logging.WARNING, force=True
    )
    logging.getLogger("caco_jax").setLevel(logging.INFO)
    # Orbax logs with a traceback what it then raises, and we say in a line.
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
    """What to do where JAX has no device to run on; None where it has one."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = os.environ.get("JAX_PLATFORMS", "")
        # JAX asserts, without a word, where it leaves out all that was asked for.
        said = (str(error).splitlines() or ["JAX finds none here"])[0]
        reason = said.partition(" (set JAX_PLATFORMS")[0].rstrip(".")
        return (
            f"JAX_PLATFORMS: expected a platform that JAX finds here, got {wanted!r}: "
            f"{reason}; JAX_PLATFORMS=cpu runs on the processor; caco_jax[cuda] and "
            "caco_jax[tpu] are for accelerators"
        )
    return None


def leave(status: int) -> NoReturn:
    """Ends this process for a reason that the others do not know.

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
    """Prints a line; of a mistake in several places a line for each."""
    lines = error.lines if isinstance(error, UserError) else (as_line(str(error)),)
    for line in lines:
        print(f"{what}: {line}", file=sys.stderr)


def _spare_writers() -> None:
    """From now on errors are not printed where they are of TensorStore's threads.

    Where a save fails, they find that the one that waited for them has gone.
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


@contextlib.contextmanager
def as_user_error(flag: str) -> Iterator[None]:
    """Makes a ValueError within the fault of this flag's value."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from None
