"""Command-line flags of all programs. Nothing here imports JAX.

``--help``, the message about a wrong flag and shell completion therefore take no time.
"""

import argparse
import ast
import dataclasses
import importlib.util
import textwrap
from collections.abc import Callable
from typing import Any

from caco_jax._recipes import recipes
from caco_jax.evaluation.plans import HELD_OUT, L2, L2_GRID, PRESETS, FineTuning
from caco_jax.interop import BACKBONE, PARTS, TWINS
from caco_jax.programs.flag_groups import (
    add_distributed,
    add_features,
    add_json,
    add_local_workdir,
    add_recipe,
    add_reporting,
    add_run,
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


# Evaluation.


def _knn(parser: Parser) -> None:
    add_run(parser)
    add_json(parser)
    parser.add_argument(
        "--k",
        type=int,
        nargs="+",
        default=[20],
        help="Numbers of nearest neighbours that vote (default: %(default)s).",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        nargs="+",
        default=[0.2],
        help="Temperatures of the votes: a neighbour has weight exp(cosine similarity "
        "/ temperature) (default: %(default)s).",
    )
    add_features(parser)


def _embed(parser: Parser) -> None:
    add_run(parser)
    parser.add_argument(
        "--out", type=path_of, required=True, help="File to write, .npz or .parquet."
    )
    add_features(parser)
    parser.add_argument(
        "--force", action="store_true", help="Replace a file that exists."
    )
    add_signals(parser)


def _few_shot(parser: Parser) -> None:
    add_run(parser)
    add_json(parser)
    parser.add_argument(
        "--shots",
        type=int,
        nargs="+",
        default=[1, 3, 10],
        help="Numbers of labelled images for each class (default: %(default)s).",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=5,
        help="Number of random draws of the labelled images (default: %(default)s).",
    )
    parser.add_argument(
        "--l2",
        type=float,
        default=L2,
        help="L2 penalty on the weights of the classifier (default: %(default)s).",
    )


def _linear_probe(parser: Parser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_run(parser)
    add_json(parser)
    parser.add_argument(
        "--protocol",
        choices=("lbfgs", "imagenet"),
        default="lbfgs",
        help="How the linear classifier is trained (default: %(default)s).",
    )
    parser.add_argument(
        "--label_feature",
        help="With lbfgs: multi-label evaluation by mean average precision, on this "
        "feature of a TFDS set that lists the classes of an image, for example labels "
        "in tfds:voc/2007.",
    )
    parser.add_argument(
        "--l2",
        type=float,
        help="With lbfgs: L2 penalty on the weights. By default it is chosen among "
        f"{', '.join(f'{l2:g}' for l2 in L2_GRID)}.",
    )
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help="With imagenet: published settings of this paper (default: caco).",
    )
    parser.add_argument(
        "--learning_rates",
        type=float,
        nargs="+",
        help="With imagenet: learning rates to try.",
    )
    parser.add_argument(
        "--weight_decays",
        type=float,
        nargs="+",
        help="With imagenet: weight decays to try with each learning rate.",
    )
    parser.add_argument(
        "--batch_size", type=int, help="With imagenet: images in one step."
    )
    parser.add_argument(
        "--epochs",
        type=int,
        help="With imagenet: number of passes over the training images.",
    )
    parser.add_argument(
        "--held_out",
        type=float,
        help="With imagenet: share of the training images that is held out to choose "
        f"between settings (default: {HELD_OUT}).",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="Seed of all random numbers (default: %(default)s).",
    )


def _fine_tune(parser: Parser) -> None:
    add_run(parser)
    add_json(parser)
    parser.add_argument(
        "--labels",
        type=float,
        nargs="+",
        default=[0.01, 0.1, 1.0],
        help="Shares of the labelled training images to fine-tune on, drawn for each "
        "class (default: %(default)s).",
    )
    for field in dataclasses.fields(FineTuning):
        if field.name == "frozen":
            options: dict[str, Any] = {"nargs": "*"}
        elif field.name == "frozen_statistics":
            options = {"action": "store_true"}
        else:
            options = {"type": type(field.default)}
        parser.add_argument(
            f"--{field.name}",
            default=field.default,
            help=f"{field.metadata['doc']} Default: {field.default}.",
            **options,
        )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="Seed of all random numbers (default: %(default)s).",
    )


def _health(parser: Parser) -> None:
    add_run(parser)
    add_json(parser)
    parser.add_argument(
        "--images",
        type=int,
        default=2048,
        help="Largest number of held-out images (default: %(default)s).",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="Seed of the augmentation (default: %(default)s).",
    )


def _report(parser: Parser) -> None:
    add_workdir(parser)
    parser.add_argument(
        "--compare",
        default="",
        help="Directories of other runs to compare with, separated by commas.",
    )
    parser.add_argument(
        "--out", type=path_of, help="File to write (default: WORKDIR/report.html)."
    )


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


# Analysis.


def _alpha_gradients(parser: Parser) -> None:
    add_local_workdir(parser)
    parser.add_argument(
        "--batch_size",
        type=int,
        default=100,
        help="Images in the batch (default: %(default)s).",
    )
    parser.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        default=[0.05, 0.1, 0.2, 0.5, 1.0],
        help="Temperatures of the pairwise importance α (default: %(default)s).",
    )
    parser.add_argument(
        "--x64", action="store_true", help="Compute in double precision."
    )
    parser.add_argument(
        "--player",
        choices=("bank", "none"),
        help="bank requires a run with a bank, none ignores the bank (default: use the "
        "bank if the run has one).",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=40,
        help="Steps of the game that the players play in turns (default: %(default)s).",
    )
    parser.add_argument(
        "--turns",
        type=int,
        nargs="+",
        default=[1, 5, 20],
        help="Numbers of gradient steps in one turn of a player (default: "
        "%(default)s).",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=0.02,
        help="Learning rate of the gradient steps (default: %(default)s).",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="Seed of the batch and the augmentation (default: %(default)s).",
    )


def _bank_dynamics(parser: Parser) -> None:
    add_local_workdir(parser)
    parser.add_argument(
        "--bandwidth",
        type=float,
        help="Bandwidth of the kernel density, in units of cosine similarity (default: "
        "the temperature of the bank).",
    )
    parser.add_argument(
        "--entries",
        type=int,
        default=4,
        help="Number of most used and of least used entries in the gallery (default: "
        "%(default)s).",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=10,
        help="Images in each row of the gallery (default: %(default)s).",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="Seed of the batches and the augmentation (default: %(default)s).",
    )


def _deep_linear_pca(parser: Parser) -> None:
    parser.add_argument(
        "--out",
        type=path_of,
        default="runs/deep_linear_pca",
        help="Directory to write to (default: %(default)s).",
    )
    parser.add_argument(
        "--starts",
        type=int,
        default=128,
        help="Random initialisations of each network (default: %(default)s).",
    )
    parser.add_argument(
        "--depths",
        type=int,
        nargs="+",
        default=[1, 2, 3, 4, 5],
        help="Numbers of layers (default: %(default)s).",
    )
    parser.add_argument(
        "--widths",
        type=int,
        nargs="+",
        default=[4, 16],
        help="Units of the hidden layers (default: %(default)s).",
    )
    parser.add_argument(
        "--pairs",
        type=path_of,
        help="File .npz with your own views x1, x2 [N, d] and optional weights alpha "
        "[N, N], to test the theorem on (default: generated views).",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="Seed of the inputs and the initialisations (default: %(default)s).",
    )


def _relu_fixed_points(parser: Parser) -> None:
    parser.add_argument(
        "--out",
        type=path_of,
        default="runs/relu_fixed_points",
        help="Directory to write to (default: %(default)s).",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=64,
        help="Number of networks that are trained together (default: %(default)s).",
    )
    parser.add_argument(
        "--hidden",
        type=int,
        nargs="+",
        default=[5, 10, 20, 40],
        help="Numbers of hidden units (default: %(default)s).",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=5000,
        help="Training steps (default: %(default)s).",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=128,
        help="Samples in one step (default: %(default)s).",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.1,
        help="Temperature of InfoNCE (default: %(default)s).",
    )
    parser.add_argument(
        "--ascent_steps",
        type=int,
        default=2**15,
        help="Largest number of gradient ascent steps to a fixed point (default: "
        "%(default)s).",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="Seed of all random numbers (default: %(default)s).",
    )


def _recipes(parser: Parser) -> None:
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="NAME",
        help="Name or Python file of a recipe, with its variants after colons.",
    )


# All of them.


_PROGRAMS: dict[str, Callable[[Parser], None]] = {
    "alpha_gradients": _alpha_gradients,
    "bank_dynamics": _bank_dynamics,
    "compile_for_pod": _compile_for_pod,
    "convert": _convert,
    "deep_linear_pca": _deep_linear_pca,
    "demo": _demo,
    "doctor": lambda parser: None,
    "embed": _embed,
    "few_shot": _few_shot,
    "fine_tune": _fine_tune,
    "health": _health,
    "knn": _knn,
    "linear_probe": _linear_probe,
    "prepare_dataset": _prepare_dataset,
    "pretrain": _pretrain,
    "recipes": _recipes,
    "relu_fixed_points": _relu_fixed_points,
    "report": _report,
}
