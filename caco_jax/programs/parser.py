"""Flags of all commands."""

import argparse
import io
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import argcomplete

PREFIX = "--config."


class Parser(argparse.ArgumentParser):
    """Flags of a command; a wrong one is one line and status 2."""

    def error(self, message: str) -> NoReturn:
        """Prints the line and exits."""
        self.exit(2, f"error: {message}; see --help\n")

    def parse_args(self, *args: Any, **options: Any) -> Any:
        """As its base; before that, answers a shell that completes a command line."""
        print_any_text()
        argcomplete.autocomplete(self)
        return super().parse_args(*args, **options)


def print_any_text() -> None:
    """Lets standard output and error take what their codec does not know, as escapes.

    A terminal may be ASCII or Latin-1; names of files, Greek letters and plus-minus
    signs are printed nevertheless.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def parse(
    parser: Parser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the assignments "a.b=value" of all ``--config.a.b=value``."""
    argv = sys.argv[1:] if argv is None else argv
    assignments = [a.removeprefix(PREFIX) for a in argv if a.startswith(PREFIX)]
    flags = parser.parse_args([a for a in argv if not a.startswith(PREFIX)])
    return flags, assignments
