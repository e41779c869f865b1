"""The flags of all programs, apart from their work: nothing here imports JAX.

So ``--help``, a wrong flag and a shell that completes are answered at once.
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
    "--config.SECTION.KEY=VALUE replaces a value of the recipe, such as "
    f"--config.training.epochs=100; {_KEYS_PAGE} has all keys. Recipes: "
    f"{', '.join(recipes())}; each with :smoke behind it is seconds on made-up images."
)


def parser_of(program: str) -> Parser:
    """The parser of a program; its description is what the program's file says.

    Args:
        program: its module, such as "linear_probe".
    """
    parser = Parser(description=docstring(program))
    _PROGRAMS[program](parser)
    return parser


def docstring(program: str) -> str:
    """What a program is for, without importing it."""
    spec = importlib.util.find_spec(f"caco_jax.programs.{program}")
    assert spec and spec.loader
    source = spec.loader.get_source(spec.name)  # type: ignore[attr-defined]
    return ast.get_docstring(ast.parse(source)) or ""


# Pretraining.


def _demo(parser: Parser) -> None:
    parser.add_argument("--config", default="caco_digits", help="a recipe")
    parser.add_argument(
        "--workdir", type=path_of, default="runs/caco_digits", help="the run's place"
    )
    parser.add_argument(
        "--fresh",
        "--force_new",  # as caco pretrain and the message of a mismatch have it
        action="store_true",
        help="start over; a run already there is moved to WORKDIR.old",
    )
    add_reporting(parser)
    add_signals(parser)


def _pretrain(parser: Parser) -> None:
    parser.epilog = _REPLACES
    add_recipe(parser)
    add_workdir(parser)
    parser.add_argument(
        "--source",
        help="the images, for --config.data.source: folder:PATH, tfds:NAME, digits",
    )
    parser.add_argument(
        "--force_new",
        action="store_true",
        help="start over; a run already there is moved to WORKDIR.old",
    )
    parser.add_argument(
        "--resume_with_changes",
        default="",
        metavar="KEY,KEY",
        help="go on with other values of these keys, such as training.epochs",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check the run, its images, memory, time and directory; write nothing",
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
    where.add_argument("--topology", help="CHIP:SHAPE, such as v5e:4x4 or v4:4x4x4")
    where.add_argument("--sweep_topologies", help="several, with commas between them")
    parser.add_argument(
        "--scale_batch",
        action="store_true",
        help="with --sweep_topologies: the batch grows with the chips, from the "
        "recipe's on the first slice (weak scaling); else it is the same on all",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="compile several times faster, with less optimisation: what chips send is "
        "the same and memory nearly so, but HBM traffic, and so time, comes out higher",
    )
    parser.add_argument(
        "--out",
        type=path_of,
        default="runs/pod/report.json",
        help="file; %(default)s by default",
    )


# Evaluation.


def _knn(parser: Parser) -> None:
    add_run(parser)
    add_json(parser)
    parser.add_argument("--k", type=int, nargs="+", default=[20], help="neighbours")
    parser.add_argument(
        "--temperature", type=float, nargs="+", default=[0.2], help="of the votes"
    )
    add_features(parser)


def _embed(parser: Parser) -> None:
    add_run(parser)
    parser.add_argument(
        "--out", type=path_of, required=True, help="file to write, .npz or .parquet"
    )
    add_features(parser)
    parser.add_argument(
        "--force", action="store_true", help="replace a file that is there"
    )
    add_signals(parser)


def _few_shot(parser: Parser) -> None:
    add_run(parser)
    add_json(parser)
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[1, 3, 10], help="labels a class"
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many draws")
    parser.add_argument("--l2", type=float, default=L2, help="penalty on the weights")


def _linear_probe(parser: Parser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_run(parser)
    add_json(parser)
    parser.add_argument("--protocol", choices=("lbfgs", "imagenet"), default="lbfgs")
    parser.add_argument(
        "--label_feature",
        help="lbfgs: a feature of a TFDS set that lists the classes of an image, as "
        "labels in tfds:voc/2007; judged by the mean average precision",
    )
    parser.add_argument(
        "--l2",
        type=float,
        help="lbfgs: penalty on the weights; chosen among "
        f"{', '.join(f'{l2:g}' for l2 in L2_GRID)} if not given",
    )
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help="imagenet: whose published settings; caco's if not given",
    )
    parser.add_argument(
        "--learning_rates", type=float, nargs="+", help="imagenet: to try"
    )
    parser.add_argument(
        "--weight_decays", type=float, nargs="+", help="imagenet: to try with each"
    )
    parser.add_argument("--batch_size", type=int, help="imagenet: images a step")
    parser.add_argument("--epochs", type=int, help="imagenet: of training")
    parser.add_argument(
        "--held_out",
        type=float,
        help="imagenet: share of the training images kept back to choose by; "
        f"{HELD_OUT} if not given",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")


def _fine_tune(parser: Parser) -> None:
    add_run(parser)
    add_json(parser)
    parser.add_argument(
        "--labels",
        type=float,
        nargs="+",
        default=[0.01, 0.1, 1.0],
        help="shares of the training images, of each class where all are known",
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
            help=f"{field.metadata['doc']}; {field.default}",
            **options,
        )
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")


def _health(parser: Parser) -> None:
    add_run(parser)
    add_json(parser)
    parser.add_argument("--images", type=int, default=2048, help="held out, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the views")


def _report(parser: Parser) -> None:
    add_workdir(parser)
    parser.add_argument(
        "--compare",
        default="",
        help="directories of other runs, with commas between, to show beside it",
    )
    parser.add_argument(
        "--out", type=path_of, help="file to write; WORKDIR/report.html if not given"
    )


# Files of others.


def _convert(parser: Parser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True)
    into = actions.add_parser("import", help="a file of weights becomes a run")
    add_recipe(into)
    into.add_argument(
        "--parts",
        nargs="+",
        choices=[part for part in PARTS if part != TWINS],
        help="what is taken; all that the file has by default",
    )
    into.add_argument(
        "--encoder",
        metavar="NAME",
        help="which encoder, where the file has several: a part of the names before "
        "it, such as teacher or encoder_k",
    )
    out = actions.add_parser("export", help="a run becomes a file of weights")
    out.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=[BACKBONE],
        help="what is written; twins: the adversarial branches of norms",
    )
    for action in (into, out):
        action.add_argument("--file", type=path_of, required=True, help="of weights")
        add_workdir(action)
        action.add_argument(
            "--force",
            action="store_true",
            help="replace the file; a run is moved to WORKDIR.old",
        )


def _prepare_dataset(parser: Parser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--dataset", required=True, help="tfds:NAME[/CONFIG][:VERSION]")
    parser.add_argument(
        "--data_dir", type=path_of, required=True, help="where prepared sets lie"
    )
    parser.add_argument(
        "--manual_dir", type=path_of, help="where files fetched by hand are"
    )


# Analysis.


def _alpha_gradients(parser: Parser) -> None:
    add_local_workdir(parser)
    parser.add_argument("--batch_size", type=int, default=100, help="images of a batch")
    parser.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        default=[0.05, 0.1, 0.2, 0.5, 1.0],
        help="of α",
    )
    parser.add_argument("--x64", action="store_true", help="in double precision")
    parser.add_argument(
        "--player",
        choices=("bank", "none"),
        help="bank: fail where the run has none; none: leave it out",
    )
    parser.add_argument("--steps", type=int, default=40, help="of the game in turns")
    parser.add_argument("--turns", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument(
        "--rate", type=float, default=0.02, help="of its gradient steps"
    )
    parser.add_argument("--seed", type=int, default=0, help="of batch and views")


def _bank_dynamics(parser: Parser) -> None:
    add_local_workdir(parser)
    parser.add_argument(
        "--bandwidth",
        type=float,
        help="of the density's kernels, on the scale of cosines; if not given, the "
        "bank's temperature",
    )
    parser.add_argument("--entries", type=int, default=4, help="of the gallery, twice")
    parser.add_argument("--images", type=int, default=10, help="of a gallery's row")
    parser.add_argument("--seed", type=int, default=0, help="of batches and views")


def _deep_linear_pca(parser: Parser) -> None:
    parser.add_argument(
        "--out", type=path_of, default="runs/deep_linear_pca", help="a directory"
    )
    parser.add_argument("--starts", type=int, default=128, help="of each network")
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 16], help="units")
    parser.add_argument(
        "--pairs",
        type=path_of,
        help="a .npz file with views x1, x2 [N, d] and, if wanted, weights alpha "
        "[N, N]: asks the theorem about these instead",
    )
    parser.add_argument("--seed", type=int, default=0, help="of inputs and starts")


def _relu_fixed_points(parser: Parser) -> None:
    parser.add_argument(
        "--out", type=path_of, default="runs/relu_fixed_points", help="a directory"
    )
    parser.add_argument("--seeds", type=int, default=64, help="networks at once")
    parser.add_argument("--hidden", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--steps", type=int, default=5000, help="of training")
    parser.add_argument("--batch_size", type=int, default=128, help="samples a step")
    parser.add_argument("--temperature", type=float, default=0.1, help="of InfoNCE")
    parser.add_argument(
        "--ascent_steps", type=int, default=2**15, help="at most, to a fixed point"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything")


def _recipes(parser: Parser) -> None:
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="NAME",
        help="a recipe, or a file; with variants behind colons",
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
