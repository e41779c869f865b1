"""Command-line programs: they parse flags, call the library, print and save."""

import functools
import importlib
import os
import pathlib
import sys

from caco_jax.programs.flags import parser_of
from caco_jax.programs.parser import parse
from caco_jax.programs.streams import be_lenient
from caco_jax.runs.preemption import Stop
from caco_jax.schema import accepted


def start(name: str) -> None:
    """Runs a program of this package as a process of its own, and exits as it says.

    Compiled programs are kept in the user's cache directory, or where
    JAX_COMPILATION_CACHE_DIR says, so that a second start does not compile again.

    Args:
        name: the module, such as "pretrain".
    """
    be_lenient()
    stop = Stop()
    stop.listen(os._exit)  # before what takes seconds to import
    # --help and a wrong flag end here, before JAX is imported.
    flags, _ = parse(parser_of(name))
    stop.listen_again(getattr(flags, "signals", None))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_directory()))
    try:
        import jax  # noqa: F401
    except ValueError as error:  # what it says names the variable
        print(f"error: JAX refuses its environment: {error}", file=sys.stderr)
        sys.exit(2)
    main = importlib.import_module(f"{__name__}.{name}").main
    from caco_jax.programs.command import run

    run(functools.partial(main, **accepted(main, {"stop": stop})))


def cache_directory() -> pathlib.Path:
    """Where compiled programs are kept, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "caco_jax" / "xla"
