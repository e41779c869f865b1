"""Command-line flags of all programs. Nothing here imports JAX.

``--help``, the message about a wrong flag and shell completion therefore take no time.
"""

import argparse
import ast
import importlib.util
import textwrap
from collections.abc import Callable

from caco_jax._recipes import recipes
from caco_jax.interop import BACKBONE, PARTS, TWINS
from caco_jax.programs import flags_analysis, flags_evaluation
from caco_jax.programs.flag_groups import (
    add_distributed,
    add_json,
    add_recipe,
    add_reporting,
    add_signals,
    add_workdir,
    path_of,
)
from caco_jax.programs.parser import Parser

_KEYS_PAGE = "docs/reference/config.md"
_REPLACES = (
    "--config.SECTION.KEY=VALUE changes a value of the recipe, for example "
    f"--config.training.epochs=100; {_KEYS_PAGE} lists all keys. Recipes: "
    f"{', '.join(recipes())}. NAME:smoke is a variant of each recipe that takes "
    "seconds on generated images."
)


def parser_of(program: str) -> Parser:
    """The parser of a program, described by the docstring of its module.

    Args:
        program: its module, such as "linear_probe".
    """
    parser = Parser(description=docstring(program))
    _PROGRAMS[program](parser)
    return parser


def docstring(program: str) -> str:
    """The docstring of a program's module, read without importing it."""
    spec = importlib.util.find_spec(f"caco_jax.programs.{program}")
    assert spec and spec.loader
    source = spec.loader.get_source(spec.name)  # type: ignore[attr-defined]
    return ast.get_docstring(ast.parse(source)) or ""


# Pretraining.


def _demo(parser: Parser) -> None:
    parser.add_argument(
        "--config",
        default="caco_digits",
        help="Recipe to train (default: %(default)s).",
    )
    parser.add_argument(
        "--workdir",
        type=path_of,
        default="runs/caco_digits",
        help="Directory of the run (default: %(default)s).",
    )
    parser.add_argument(
        "--fresh",
        "--force_new",  # the name that caco pretrain and its messages use
        action="store_true",
        help="Start a new run; a run in WORKDIR is moved to WORKDIR.old.",
    )
    add_reporting(parser)
    add_signals(parser)


def _pretrain(parser: Parser) -> None:
    parser.epilog = _REPLACES
    add_recipe(parser)
    add_workdir(parser)
    parser.add_argument(
        "--source",
        help="Data set to train on, as in --config.data.source: folder:PATH, "
        "tfds:NAME, digits, ...",
    )
    parser.add_argument(
        "--force_new",
        action="store_true",
        help="Start a new run; a run in WORKDIR is moved to WORKDIR.old.",
    )
    parser.add_argument(
        "--resume_with_changes",
        default="",
        metavar="KEY,KEY",
        help="Resume the run with changed values of these keys, for example "
        "training.epochs.",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Check configuration, data set, memory, time and directory of the run, "
        "and write nothing.",
    )
    add_reporting(parser)
    add_signals(parser)
    add_distributed(parser)


def _compile_for_pod(parser: Parser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = textwrap.fill(
        f"{_REPLACES} No data set is read. A ResNet-50 takes minutes.", 79
    )
    add_recipe(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--topology",
        help="TPU slice as CHIP:SHAPE, for example v5e:4x4 or v4:4x4x4.",
    )
    where.add_argument(
        "--sweep_topologies", help="Several TPU slices, separated by commas."
    )
    parser.add_argument(
        "--scale_batch",
        action="store_true",
        help="Weak scaling with --sweep_topologies: the batch grows with the number of "
        "chips, from the recipe's batch size on the first slice. Without it all slices "
        "have the same batch.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="Compile several times faster with fewer optimisations: communication is "
        "the same and memory nearly so; HBM traffic, and so time, is overestimated.",
    )
    parser.add_argument(
        "--out",
        type=path_of,
        default="runs/pod/report.json",
        help="JSON file to write (default: %(default)s).",
    )
    add_json(parser)


# Files of other programs.


def _convert(parser: Parser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True)
    into = actions.add_parser("import", help="make a run from a file of weights")
    add_recipe(into)
    into.add_argument(
        "--parts",
        nargs="+",
        choices=[part for part in PARTS if part != TWINS],
        help="Parts of the file to import (default: all that it has).",
    )
    into.add_argument(
        "--encoder",
        metavar="NAME",
        help="Encoder to import from a file of several: a part of the prefix of its "
        "names, for example teacher or encoder_k.",
    )
    out = actions.add_parser("export", help="write the weights of a run to a file")
    out.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=[BACKBONE],
        help="Parts of the run to export (default: backbone). twins are the "
        "adversarial branches of the normalisation layers.",
    )
    for action in (into, out):
        action.add_argument(
            "--file", type=path_of, required=True, help="File of weights."
        )
        add_workdir(action)
        action.add_argument(
            "--force",
            action="store_true",
            help="Replace a file that exists; a run in WORKDIR is moved to "
            "WORKDIR.old.",
        )


def _prepare_dataset(parser: Parser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--dataset",
        required=True,
        help="Data set as tfds:NAME[/CONFIG][:VERSION].",
    )
    parser.add_argument(
        "--data_dir",
        type=path_of,
        required=True,
        help="Directory of prepared data sets.",
    )
    parser.add_argument(
        "--manual_dir",
        type=path_of,
        help="Directory of the files that you have to download by hand.",
    )


# All of them.


def _recipes(parser: Parser) -> None:
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="NAME",
        help="Name or Python file of a recipe, with its variants after colons.",
    )
    add_json(parser)


_PROGRAMS: dict[str, Callable[[Parser], None]] = {
    "alpha_gradients": flags_analysis.alpha_gradients,
    "bank_dynamics": flags_analysis.bank_dynamics,
    "compile_for_pod": _compile_for_pod,
    "convert": _convert,
    "deep_linear_pca": flags_analysis.deep_linear_pca,
    "demo": _demo,
    "doctor": add_json,
    "embed": flags_evaluation.embed,
    "few_shot": flags_evaluation.few_shot,
    "fine_tune": flags_evaluation.fine_tune,
    "health": flags_evaluation.health,
    "knn": flags_evaluation.knn,
    "linear_probe": flags_evaluation.linear_probe,
    "prepare_dataset": _prepare_dataset,
    "pretrain": _pretrain,
    "recipes": _recipes,
    "relu_fixed_points": flags_analysis.relu_fixed_points,
    "report": flags_evaluation.report,
}
