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
    """Runs a program as the main program of this process and exits with its status.

    XLA's compiled programs are cached in the user's cache directory, or in
    JAX_COMPILATION_CACHE_DIR, so that a second start does not compile again.

    Args:
        name: the module, such as "pretrain".
    """
    be_lenient()
    stop = Stop()
    stop.listen(os._exit)  # before the imports, which take seconds
    # --help and a wrong flag end here, before JAX is imported.
    flags, _ = parse(parser_of(name))
    stop.listen_again(getattr(flags, "signals", None))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_directory()))
    try:
        import jax  # noqa: F401
    except ValueError as error:  # its message names the variable
        print(f"error: JAX refuses its environment: {error}", file=sys.stderr)
        sys.exit(2)
    main = importlib.import_module(f"{__name__}.{name}").main
    from caco_jax.programs.command import run

    run(functools.partial(main, **accepted(main, {"stop": stop})))


def cache_directory() -> pathlib.Path:
    """Directory of the compilation cache, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "caco_jax" / "xla"
