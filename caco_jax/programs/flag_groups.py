"""Groups of flags that several programs have, and how their values are read."""

import argparse

from caco_jax._paths import bucket_address, local_path
from caco_jax.programs.parser import Parser
from caco_jax.runs.preemption import MORE_SIGNALS, REQUEUE_STATUS, SIGNALS
from caco_jax.runs.settings import FEATURES, TIMEOUT_SECONDS


def path_of(text: str) -> str:
    """A path of this machine, as `local_path` reads it."""
    try:
        return str(local_path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def place_of(text: str) -> str:
    """A path of this machine or of a bucket."""
    try:
        return bucket_address(text) or str(local_path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Which recipe."""
    parser.add_argument(
        "--config",
        required=True,
        help="a recipe: a name, or a Python file",
    )


def add_workdir(parser: argparse.ArgumentParser) -> None:
    """The run's directory."""
    parser.add_argument(
        "--workdir",
        type=place_of,
        required=True,
        help="the run's directory; gs://BUCKET/DIRECTORY is one, too",
    )


def add_local_workdir(parser: argparse.ArgumentParser) -> None:
    """Of a program that draws figures into it."""
    parser.add_argument(
        "--workdir", type=path_of, required=True, help="the run's directory"
    )


def add_run(parser: Parser) -> None:
    """Which run is evaluated, and on which images."""
    add_workdir(parser)
    parser.add_argument(
        "--source",
        help="other images than the run's: tfds:NAME, folder:PATH, wds:PATH, digits",
    )
    parser.add_argument("--data_dir", type=path_of, help="where prepared sets lie")
    parser.add_argument("--train_split", help="of the source, to learn from")
    parser.add_argument("--test_split", help="of the source, to judge by")


def add_json(parser: Parser) -> None:
    """How the figures are printed."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the figures as one JSON object, as they are saved",
    )


def add_features(parser: Parser) -> None:
    """Which output of the network."""
    parser.add_argument(
        "--features",
        choices=FEATURES,
        default=FEATURES[0],
        help="the backbone's, or the projector's output (default: %(default)s)",
    )


def add_reporting(parser: Parser) -> None:
    """Who else is told."""
    parser.add_argument(
        "--no_tensorboard",
        action="store_true",
        help="write no TensorBoard events into WORKDIR/tensorboard",
    )
    parser.add_argument(
        "--wandb", metavar="PROJECT", help="log to this project of Weights & Biases"
    )


def signals_of(text: str) -> list[str]:
    """Names of signals, with commas between them."""
    names = [name.strip().upper().removeprefix("SIG") for name in text.split(",")]
    known = (*SIGNALS, *MORE_SIGNALS)
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(
                f"expected some of {','.join(known)}, got {name or text!r}"
            )
    return names


def add_signals(parser: Parser) -> None:
    """Which signals save and end."""
    parser.add_argument(
        "--signals",
        type=signals_of,
        default=list(SIGNALS),
        metavar="NAME,NAME",
        help="that end the run in order: it saves, and its status is "
        f"{REQUEUE_STATUS} ({','.join(SIGNALS)} if not given)",
    )


def add_distributed(parser: Parser) -> None:
    """Who the other processes are."""
    group = parser.add_argument_group("a run of many processes")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="join the other processes of this run; SLURM, GKE and TPU say the rest",
    )
    group.add_argument("--coordinator_address", help="HOST:PORT of process 0")
    group.add_argument("--num_processes", type=int, help="of the whole run")
    group.add_argument("--process_id", type=int, help="of this one, from 0")
    group.add_argument(
        "--initialization_timeout",
        type=int,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="how long processes wait for each other (default: %(default)s)",
    )
