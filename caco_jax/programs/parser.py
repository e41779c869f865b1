"""The argument parser of all commands: errors in one line, shell completion."""

import argparse
import difflib
import io
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import argcomplete

from caco_jax.schema import did_you_mean, flatten

PREFIX = "--config."
_UNKNOWN = "unrecognized arguments: "


def config_keys() -> list[str]:
    """The dotted keys of all recipes. It imports the configuration, which is slow."""
    from caco_jax.config.sections import default_config
    from caco_jax.methods.registry import METHODS

    keys = (key for name in METHODS for key in flatten(default_config(name).to_dict()))
    return list(dict.fromkeys(keys))


class Parser(argparse.ArgumentParser):
    """Parser of a command; a wrong flag ends with a one-line message and status 2."""

    def error(self, message: str) -> NoReturn:
        """Prints the message, with a suggestion if one is near, and exits."""
        if message.startswith(_UNKNOWN):
            message += self._meant(*message.removeprefix(_UNKNOWN).split()[:2])
        more = " --help shows all flags" if message.endswith("?") else "; see --help"
        self.exit(2, f"error: {message}{more}\n")

    def _meant(self, word: str, after: str = "") -> str:
        """Suggests a flag or a configuration key for a word that is no flag.

        Configuration keys are searched only if the word has a value: it takes a second.
        """
        name, _, value = word.partition("=")
        name, value = name.lstrip("-"), value or after
        options = [o[2:] for o in self._option_string_actions if o.startswith("--")]
        flag = did_you_mean(name.replace("-", "_"), options)
        if "config" in options and value:
            known = config_keys()
            keys = [key for key in known if f".{key}".endswith(f".{name}")]
            if "." in name:
                keys = keys or difflib.get_close_matches(name, known, n=1)
            if keys:
                said = " or ".join(f"{PREFIX}{key}={value}" for key in keys[:3])
                return f"; did you mean {said}?"
        return flag.replace("did you mean ", "did you mean --")

    def parse_args(self, *args: Any, **options: Any) -> Any:
        """Parses as the base class does, after serving a request for completion."""
        print_any_text()
        argcomplete.autocomplete(self)
        return super().parse_args(*args, **options)


def print_any_text() -> None:
    """Makes standard output and error escape characters that their encoding lacks.

    On an ASCII or Latin-1 terminal, file names, Greek letters and plus-minus signs are
    then printed as escapes and raise no UnicodeEncodeError.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def parse(
    parser: Parser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the assignments "a.b=value" of all ``--config.a.b=value``."""
    argv = sys.argv[1:] if argv is None else argv
    for word in argv:
        if word.startswith(PREFIX) and "=" not in word:
            parser.error(f"{word}: expected {word}=VALUE")
    assignments = [a.removeprefix(PREFIX) for a in argv if a.startswith(PREFIX)]
    flags = parser.parse_args([a for a in argv if not a.startswith(PREFIX)])
    return flags, assignments
