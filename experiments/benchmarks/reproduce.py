"""Trains the methods on CIFAR from local files, at the budget of peer libraries.

    python -m experiments.benchmarks.reproduce --source=cifar10:PATH --out=FILE.json

ResNet-18, each method by its recipe for CIFAR. It can run on one GPU in pieces: after
--minutes a run saves and the command exits with status 75; rerun the same command to
resume. Finished runs are evaluated on the test images and not repeated.
"""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from caco_jax.config.build import load_run, pretrain
from caco_jax.config.recipe import load_recipe, override
from caco_jax.config.sections import experiment_config
from caco_jax.evaluation.summary import evaluate_features
from caco_jax.programs.command import run as run_command
from caco_jax.programs.parser import Parser, parse
from caco_jax.runs.preemption import Stop, Stopped
from caco_jax.schema import require
from experiments.benchmarks.book import Book, Piece, Row
from experiments.benchmarks.timing import machine, require_known

METHODS = ("moco", "simclr", "adco", "caco", "alpha_cl")
SOURCES = ("cifar10", "cifar100")
EPOCHS = 1000  # epochs of the peers; α-CL's own recipe has 100
# Online linear accuracy of solo-learn, 1,000 epochs, ResNet-18; "+" is symmetric.
PEERS: Mapping[str, Mapping[str, float]] = {
    "cifar10": {"simclr": 90.7, "moco": 92.9},
    "cifar100": {"simclr": 65.8, "moco": 69.9},
}
MEASURES = {"linear": "linear", "knn": "kNN", "few_shot_mean": "3 labels a class"}


class Deadline(Stop):
    """Asks a run to save and stop at a deadline or by a signal.

    Args:
        minutes: time from now.
    """

    def __init__(self, minutes: float) -> None:
        super().__init__()
        self._minutes, self._end_seconds = minutes, time.monotonic() + 60 * minutes

    def requested(self) -> bool:
        """See `Stop`."""
        asked = super().requested()
        return asked or time.monotonic() > self._end_seconds

    def check(self) -> None:
        """See `Stop`."""
        if self.requested():
            raise Stopped(f"{self._minutes:g} minutes are over")


def reproduce(
    method: str,
    source: str,
    workdir: pathlib.Path,
    *,
    epochs: int,
    assignments: Sequence[str],
    stop: Stop,
) -> Row:
    """Trains or resumes one method to its end, and evaluates it.

    Args:
        method: one of `METHODS`.
        source: see data.source.
        workdir: directory of the run.
        epochs: number of epochs of the run.
        assignments: "a.b=value", changed values of the recipe.
        stop: asks the run to stop early.

    Raises:
        Stopped: `stop` asked for it; a checkpoint is saved.
    """
    kind = source.partition(":")[0]
    variant = "" if kind == "cifar10" else f":{kind}"
    recipe = load_recipe(f"{method}_cifar10{variant}")
    settings = [f"data.source={source}", f"training.epochs={epochs}", *assignments]
    config = experiment_config(override(recipe, settings))
    summary = pretrain(config, workdir, stop=stop)
    trained = load_run(workdir)
    train, test = trained.features()
    classes = trained.data.num_classes
    figures = evaluate_features(*train, *test, num_classes=classes)
    names = ("epochs", "pretrain_seconds", "images_per_second")
    return {**figures, **{name: summary[name] for name in names}}


def table(rows: Sequence[Row], kind: str) -> str:
    """One line for each method, with the accuracy of peers, as Markdown."""
    heads = ["method", "epochs", *MEASURES.values(), "peers, online linear", "hours"]
    lines = [heads, ["---"] * len(heads)]
    done = {row["arm"]: row for row in rows}
    for method in METHODS:
        peer = PEERS[kind].get(method, "")
        row = done.get(method)
        if row is None:
            found = ["", "not run", "not run", "not run", peer, ""]
        else:
            accuracies = (f"{100 * row[name]:.1f}" for name in MEASURES)
            hours = f"{row['pretrain_seconds'] / 3600:.1f}"
            found = [row["epochs"], *accuracies, peer, hours]
        lines.append([method, *map(str, found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Parses flags, trains until the deadline, prints the table."""
    parser = Parser(
        description=__doc__,
        epilog="--config.SECTION.KEY=VALUE replaces a value in all recipes.",
    )
    parser.add_argument(
        "--source", required=True, help="Data set: cifar10:PATH or cifar100:PATH."
    )
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="NAME")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="Time limit of this command."
    )
    parser.add_argument(
        "--show",
        action="store_true",
        help="Print the results so far and train nothing.",
    )
    parser.add_argument("--out", default="runs/bench/reproduce.json", help="JSON file")
    flags, assignments = parse(parser)
    kind = flags.source.partition(":")[0]
    require(
        kind in SOURCES,
        f"--source: expected cifar10:PATH or cifar100:PATH, got {flags.source!r}",
    )
    require_known("methods", flags.methods, METHODS)
    for name in ("epochs", "minutes"):
        value = getattr(flags, name)
        require(value > 0, f"--{name}: expected a number above 0, got {value}")
    out = pathlib.Path(flags.out)
    plan: dict[str, Any] = {"set": kind, "epochs": flags.epochs, "changed": assignments}
    book, stop = Book(out, plan), Deadline(flags.minutes)
    try:
        for method in () if flags.show else flags.methods:
            piece = Piece("run", method, 0)
            if piece not in book.rows():
                row = reproduce(
                    method,
                    flags.source,
                    out.with_suffix("") / method,
                    epochs=flags.epochs,
                    assignments=assignments,
                    stop=stop,
                )
                book.add(piece, {**row, "machine": machine()})
    finally:
        print(table(list(book.rows().values()), kind))


if __name__ == "__main__":
    run_command(main)
