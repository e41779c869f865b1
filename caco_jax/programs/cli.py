"""The console command ``caco``, which starts all programs."""

import difflib
import os
import sys
from collections.abc import Iterator
from typing import Any

import caco_jax
from caco_jax.programs import start
from caco_jax.programs.flags import docstring
from caco_jax.programs.parser import Parser

# Command -> module of the program, or subcommands.
PROGRAMS: dict[str, Any] = {
    "demo": "demo",
    "pretrain": "pretrain",
    "probe": "linear_probe",
    "knn": "knn",
    "few-shot": "few_shot",
    "fine-tune": "fine_tune",
    "health": "health",
    "embed": "embed",
    "report": "report",
    "convert": "convert",
    "prepare": "prepare_dataset",
    "analyse": {
        "alpha": "alpha_gradients",
        "bank": "bank_dynamics",
        "deep-linear": "deep_linear_pca",
        "relu": "relu_fixed_points",
    },
    "compile": "compile_for_pod",
    "recipes": "recipes",
    "doctor": "doctor",
}


def main() -> None:
    """Runs the program that the first words of the command line name."""
    words = finished_words()
    found: Any = PROGRAMS
    used = 0
    while isinstance(found, dict) and words[used : used + 1]:
        if words[used] not in found:
            break
        found = found[words[used]]
        used += 1
    name = " ".join(["caco", *words[:used]])
    if isinstance(found, dict):
        door = front_door(name, found)
        asked = sys.argv[1 + used : 2 + used]
        meant = guessed(*asked) if asked and asked[0] not in found else ""
        if meant:
            door.error(
                f"{name}: there is no command {asked[0]!r}; did you mean {meant}?"
            )
        door.parse_args(sys.argv[1 + used :])
        return
    sys.argv[:] = [name, *sys.argv[1 + used :]]
    if "_ARGCOMPLETE" in os.environ:  # number of words before the program's own flags
        os.environ["_ARGCOMPLETE"] = str(int(os.environ["_ARGCOMPLETE"]) + used)
    start(found)


def guessed(word: str) -> str:
    """The full command whose name is nearest to a word; "" if none is near."""
    doors: dict[str, list[str]] = {}
    for words, program in commands(PROGRAMS):
        doors |= {program: words, program.replace("_", "-"): words, words[-1]: words}
        doors |= {words[0]: words[:1]} if len(words) > 1 else {}
    near = difflib.get_close_matches(word.lower(), doors, n=1)
    return " ".join(["caco", *doors[near[0]]]) if near else ""


def commands(programs: dict[str, Any], *above: str) -> Iterator[tuple[list[str], str]]:
    """(words, program) of all commands."""
    for word, found in programs.items():
        if isinstance(found, dict):
            yield from commands(found, *above, word)
        else:
            yield [*above, word], found


def finished_words() -> list[str]:
    """The words after ``caco``; in shell completion without the unfinished word."""
    if "_ARGCOMPLETE" not in os.environ:
        return sys.argv[1:]
    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    return (line + "|").split()[1:-1]


def front_door(name: str, programs: dict[str, Any]) -> Parser:
    """A parser whose help lists programs, one line each."""
    parser = Parser(
        prog=name,
        description="Contrastive pretraining with learnable and adversarial players.",
        epilog=f"{name} COMMAND --help shows the flags of a command. Shell completion: "
        'eval "$(register-python-argcomplete caco)"',
    )
    if programs is PROGRAMS:
        version = f"caco_jax {caco_jax.__version__}"
        parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for key, found in programs.items():
        several = isinstance(found, dict)
        text = ", ".join(found) if several else first_line(found)
        commands.add_parser(key, help=text)
    return parser


def first_line(program: str) -> str:
    """The first line of a program's docstring."""
    return docstring(program).splitlines()[0].split(": caco ")[0].rstrip(".")
