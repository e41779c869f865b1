"""Flags of the programs that evaluate a run; nothing here imports JAX."""

import argparse
import dataclasses
from typing import Any

from caco_jax.evaluation.plans import HELD_OUT, L2, L2_GRID, PRESETS, FineTuning
from caco_jax.programs.flag_groups import (
    add_features,
    add_json,
    add_run,
    add_seed,
    add_signals,
    add_workdir,
    path_of,
)
from caco_jax.programs.parser import Parser


def knn(parser: Parser) -> None:
    """Flags of the program `knn`."""
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


def embed(parser: Parser) -> None:
    """Flags of the program `embed`."""
    add_run(
        parser,
        source="Data set to embed",
        train_split="Split of the data set whose rows are named train in the file.",
        test_split="Split of the data set whose rows are named test in the file.",
    )
    add_json(parser)
    parser.add_argument(
        "--out", type=path_of, required=True, help="File to write, .npz or .parquet."
    )
    add_features(parser)
    parser.add_argument(
        "--force", action="store_true", help="Replace a file that exists."
    )
    add_signals(parser)


def few_shot(parser: Parser) -> None:
    """Flags of the program `few_shot`."""
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


def linear_probe(parser: Parser) -> None:
    """Flags of the program `linear_probe`."""
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
    add_seed(parser)


def fine_tune(parser: Parser) -> None:
    """Flags of the program `fine_tune`."""
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
    add_seed(parser)


def health(parser: Parser) -> None:
    """Flags of the program `health`."""
    add_run(
        parser,
        source="Data set to measure on",
        train_split="Split of the data set to measure on if no images are held out.",
        test_split="Split of the data set with the held-out images to measure on.",
    )
    add_json(parser)
    parser.add_argument(
        "--images",
        type=int,
        default=2048,
        help="Largest number of held-out images (default: %(default)s).",
    )
    add_seed(parser, "the augmentation")


def report(parser: Parser) -> None:
    """Flags of the program `report`."""
    add_workdir(parser)
    parser.add_argument(
        "--compare",
        default="",
        help="Directories of other runs to compare with, separated by commas.",
    )
    parser.add_argument(
        "--out", type=path_of, help="File to write (default: WORKDIR/report.html)."
    )
