"""Groups of flags that several programs share, and parsers of their values."""

import argparse

from caco_jax._paths import bucket_address, local_path
from caco_jax.programs.parser import Parser
from caco_jax.runs.preemption import MORE_SIGNALS, REQUEUE_STATUS, SIGNALS
from caco_jax.runs.settings import FEATURES, TIMEOUT_SECONDS


def path_of(text: str) -> str:
    """A path on this machine; see `local_path`."""
    try:
        return str(local_path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def place_of(text: str) -> str:
    """A path on this machine or the address of a bucket."""
    try:
        return bucket_address(text) or str(local_path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds ``--config``, the recipe."""
    parser.add_argument(
        "--config",
        required=True,
        help="Recipe: its name, or a Python file.",
    )


def add_workdir(parser: argparse.ArgumentParser) -> None:
    """Adds ``--workdir``, the directory of the run, which may be a bucket."""
    parser.add_argument(
        "--workdir",
        type=place_of,
        required=True,
        help="Directory of the run; gs://BUCKET/DIRECTORY is possible.",
    )


def add_local_workdir(parser: argparse.ArgumentParser) -> None:
    """Adds ``--workdir`` for a program that writes figures into it: no bucket."""
    parser.add_argument(
        "--workdir", type=path_of, required=True, help="Directory of the run."
    )


def add_run(
    parser: Parser,
    *,
    source: str = "Data set to evaluate on",
    train_split: str = "Split of the data set that the classifier learns from.",
    test_split: str = "Split of the data set that accuracy is measured on.",
) -> None:
    """Adds the flags of an evaluation: the run, the data set and its splits.

    Args:
        parser: of the program.
        source: what the program does with the data set.
        train_split: what it does with the training images.
        test_split: what it does with the held-out images.
    """
    add_workdir(parser)
    parser.add_argument(
        "--source",
        help=f"{source} (default: that of the run): tfds:NAME, folder:PATH, wds:PATH, "
        "digits, ...",
    )
    parser.add_argument(
        "--data_dir", type=path_of, help="Directory of prepared data sets."
    )
    parser.add_argument("--train_split", help=train_split)
    parser.add_argument("--test_split", help=test_split)


def add_json(parser: Parser) -> None:
    """Adds ``--json``, to print the result as JSON."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="Print the result as one JSON object, and nothing else on the standard "
        "output.",
    )


def add_seed(parser: Parser, of: str = "all random numbers") -> None:
    """Adds ``--seed``.

    Args:
        parser: of the program.
        of: what the seed determines.
    """
    parser.add_argument(
        "--seed", type=int, default=0, help=f"Seed of {of} (default: %(default)s)."
    )


def add_features(parser: Parser) -> None:
    """Adds ``--features``, the output of the network that is evaluated."""
    parser.add_argument(
        "--features",
        choices=FEATURES,
        default=FEATURES[0],
        help="Output of the backbone, or embedding of the projector (default: "
        "%(default)s).",
    )


def add_reporting(parser: Parser) -> None:
    """Adds the flags of TensorBoard and Weights & Biases."""
    parser.add_argument(
        "--no_tensorboard",
        action="store_true",
        help="Write no TensorBoard events to WORKDIR/tensorboard.",
    )
    parser.add_argument(
        "--wandb", metavar="PROJECT", help="Log to this project of Weights & Biases."
    )


def signals_of(text: str) -> list[str]:
    """Parses names of signals, separated by commas."""
    names = [name.strip().upper().removeprefix("SIG") for name in text.split(",")]
    known = (*SIGNALS, *MORE_SIGNALS)
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(
                f"expected some of {','.join(known)}, got {name or text!r}"
            )
    return names


def add_signals(parser: Parser) -> None:
    """Adds ``--signals``, the signals that save and end the run."""
    parser.add_argument(
        "--signals",
        type=signals_of,
        default=list(SIGNALS),
        metavar="NAME,NAME",
        help="Signals at which the run saves a checkpoint and exits with status "
        f"{REQUEUE_STATUS} (default: {','.join(SIGNALS)}).",
    )


def add_distributed(parser: Parser) -> None:
    """Adds the flags of a run of many processes."""
    group = parser.add_argument_group("a run of many processes")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="Join the other processes of this run. On SLURM, GKE and Cloud TPU the "
        "other flags of this group are not needed.",
    )
    group.add_argument(
        "--coordinator_address", help="Address of process 0 as HOST:PORT."
    )
    group.add_argument(
        "--num_processes", type=int, help="Number of processes of the run."
    )
    group.add_argument(
        "--process_id", type=int, help="Number of this process, counted from 0."
    )
    group.add_argument(
        "--initialization_timeout",
        type=int,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="Longest time that processes wait for each other (default: %(default)s).",
    )
