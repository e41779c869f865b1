"""The console command ``caco``: one front door to all programs."""

import os
import sys
from typing import Any

from caco_jax.programs import start
from caco_jax.programs.flags import docstring
from caco_jax.programs.parser import Parser

# A name leads to a program's module, or to more names.
PROGRAMS: dict[str, Any] = {
    "demo": "demo",
    "pretrain": "pretrain",
    "probe": "linear_probe",
    "knn": "knn",
    "few-shot": "few_shot",
    "fine-tune": "fine_tune",
    "health": "health",
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
        front_door(name, found).parse_args(sys.argv[1 + used :])
        return
    sys.argv[:] = [name, *sys.argv[1 + used :]]
    if "_ARGCOMPLETE" in os.environ:  # how many words are before the program's own
        os.environ["_ARGCOMPLETE"] = str(int(os.environ["_ARGCOMPLETE"]) + used)
    start(found)


def finished_words() -> list[str]:
    """The words after ``caco``; of a line that a shell completes, the whole ones."""
    if "_ARGCOMPLETE" not in os.environ:
        return sys.argv[1:]
    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    return (line + "|").split()[1:-1]


def front_door(name: str, programs: dict[str, Any]) -> Parser:
    """A parser whose help lists programs, a line each."""
    parser = Parser(
        prog=name,
        description="Contrastive pretraining with learnable and adversarial players.",
        epilog=f"{name} COMMAND --help says more. Completion by the shell: "
        'eval "$(register-python-argcomplete caco)"',
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for key, found in programs.items():
        several = isinstance(found, dict)
        text = ", ".join(found) if several else first_line(found)
        commands.add_parser(key, help=text)
    return parser


def first_line(program: str) -> str:
    """What a program is for, in few words."""
    return docstring(program).splitlines()[0].split(": python -m")[0].rstrip(".")
