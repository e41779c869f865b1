"""Tournament of methods on small images: do learned banks and adversaries help?

    python -m experiments.benchmarks.tournament --source=idx:PATH --out=FILE.json

Encoder, views, batch and steps are equal for all arms. Each arm tries the same number
of settings on one seed, scored on images held out of the training set; the best one
then trains with other seeds, the same for all, and is evaluated on the test images.
Changes that might improve a bank (--tries) have one trial each; those that score a
point above their method's best trial get finals, too. A piece is one run: finished
pieces are not repeated, and several such commands share the work. A difference is
claimed only if its 95 % interval over the seeds excludes 0.
"""

import pathlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from caco_jax import Pretraining
from caco_jax.data.dataset import ArrayDataset, hold_out
from caco_jax.data.sources import load
from caco_jax.evaluation import few_shot, knn, linear
from caco_jax.methods.method import Network
from caco_jax.programs.command import run as run_command
from caco_jax.programs.parser import Parser
from caco_jax.runs.fit import start_up, train_epochs
from caco_jax.runs.run import make_network_features
from caco_jax.runs.telemetry import BankTelemetry
from caco_jax.schema import UserError
from caco_jax.training.loop import Metrics, Throughput
from caco_jax.training.state import TrainState
from experiments.benchmarks import standings
from experiments.benchmarks.arms import ARMS, BANKS, BEST_BANK, TRIES, Arm, build
from experiments.benchmarks.book import Book, Piece, Row
from experiments.benchmarks.timing import machine, require_known, require_least

MARKS = (1, 2, 5, 10, 20)  # epochs at which a run is evaluated
SHOTS, DRAWS = 10, range(10)  # labels of each class, number of draws
LABELLED = 20_000  # largest number of training images for kNN and probes
SCORE = "few"  # measure that trials are chosen by
MARGIN = 0.01  # by which a try has to beat its host: one seed tells no smaller one
TRIAL_SEED = 100
HELD_OUT = 1 / 6
_WAIT_SECONDS = 5.0


class Judge:
    """Evaluates the encoder of a run.

    Args:
        run: the run.
    """

    def __init__(self, run: Pretraining) -> None:
        self._features = make_network_features(run, most_train=LABELLED)
        self._classes = run.data.num_classes
        self._bank = BankTelemetry(run)

    def __call__(
        self, state: TrainState, metrics: Metrics, *, whole: bool
    ) -> dict[str, float]:
        """Accuracies by measure, and diagnostics of the bank.

        Args:
            state: state of the run.
            metrics: metrics of the epoch's steps.
            whole: whether to include the linear probe of all labels.
        """
        train, test = self._features(Network(state.players["encoder"], state.stats))
        classes = self._classes
        (by_neighbours,) = knn.knn_accuracy(
            *test, *train, num_classes=classes, settings=[(20, 0.2)]
        )
        few = few_shot.few_shot_accuracy(
            *train, *test, shots=SHOTS, seeds=DRAWS, num_classes=classes
        )
        found = {"knn": by_neighbours, "few": float(np.mean(few))}
        if whole:
            model = linear.fit_logistic_regression(*train, num_classes=classes)
            found["linear"] = linear.accuracy(model, *test)
        means = {name: float(np.mean(values)) for name, values in metrics.items()}
        return found | self._bank.row(state, means)


def train(run: Pretraining, epochs: int, marks: Collection[int]) -> Row:
    """Trains a run for a budget of epochs, including its start-up, and evaluates it.

    The steps of the start-up phase are subtracted from the last epoch.

    Args:
        run: the run.
        epochs: the budget.
        marks: epochs at which it is evaluated, beside the last.
    """
    judge, throughput, feeds = Judge(run), Throughput(), run.feeds()
    state = start_up(run, feeds, throughput)
    before = epochs - run.training.epochs
    filling = 0 if before else min(run.start_up_steps, run.steps_per_epoch - 1)
    last = run.total_steps - filling
    done, judged = 0, {}
    if before in marks:
        judged[str(before)] = judge(state, {}, whole=False)

    def watch(phase: str, step: int, metrics: Metrics) -> None:
        nonlocal done
        done = step

    # One dispatch is queued behind the one that is watched.
    ended = train_epochs(
        run, state, feeds, throughput, stop=lambda: done + 2 > last, watch=watch
    )
    for number, state, metrics in ended:
        epoch = number + before
        if epoch in marks or epoch == epochs:
            judged[str(epoch)] = judge(state, metrics, whole=epoch == epochs)
    return {
        "steps": int(state.step) + run.start_up_steps,
        "milliseconds_a_step": 1e3 * throughput.seconds / int(state.step),
        "marks": judged,
    }


class Tournament:
    """The tournament: arms, data, budgets, seeds.

    Args:
        data: images with labels, and test images.
        epochs: budget of a final.
        trial_epochs: budget of a trial.
        seeds: seeds of the finals.
        arms: arms by name.
    """

    def __init__(
        self,
        data: ArrayDataset,
        *,
        epochs: int,
        trial_epochs: int,
        seeds: Sequence[int],
        arms: Mapping[str, Arm],
    ) -> None:
        self.data, self.arms, self.seeds = data, arms, seeds
        self.epochs, self.trial_epochs = epochs, trial_epochs
        self._trial_data = without_test(data)

    def pieces(self, rows: Mapping[Piece, Row]) -> list[Piece]:
        """All runs, most important first, as far as finished ones decide them."""
        trials = [
            Piece("trial", name, number)
            for name, arm in self.arms.items()
            for number in range(len(arm.trials))
        ]
        entered = [name for name in self.arms if self._enters(name, rows)]
        return trials + [
            Piece("final", name, seed) for seed in self.seeds for name in entered
        ]

    def _enters(self, name: str, rows: Mapping[Piece, Row]) -> bool:
        """Whether an arm gets finals: a try has to beat its host by a margin."""
        host = self.arms[name].host
        if len(self.arms[name].trials) > 1 or host is None:
            return True
        own, its = self._best_trial(name, rows), self._best_trial(host, rows)
        if own is None or its is None:
            return False
        return score(own) >= score(its) + MARGIN

    def setting(
        self, piece: Piece, rows: Mapping[Piece, Row]
    ) -> tuple[str, dict[str, Any]] | None:
        """Method and setting of a piece; None while it needs unfinished pieces."""
        arm = self.arms[piece.arm]
        method, start = arm.method, dict(arm.fixed)
        if arm.host is not None:
            name = self._best_bank(rows) if arm.host == BEST_BANK else arm.host
            chosen = None if name is None else self._chosen(name, rows)
            if chosen is None:
                return None
            method, start = chosen[0], {**chosen[1], **start}
        if piece.stage == "trial":
            return method, {**start, **arm.trials[piece.number]}
        return self._chosen(piece.arm, rows)

    def play(self, piece: Piece, method: str, setting: Mapping[str, Any]) -> Row:
        """Trains and evaluates one run."""
        final = piece.stage == "final"
        epochs = self.epochs if final else self.trial_epochs
        run = build(
            method,
            setting,
            data=self.data if final else self._trial_data,
            epochs=epochs,
            seed=piece.number if final else TRIAL_SEED,
        )
        return {
            "method": method,
            "setting": dict(setting),
            **train(run, epochs, MARKS if final else ()),
        }

    def _best_trial(self, name: str, rows: Mapping[Piece, Row]) -> Row | None:
        """The best trial of an arm; None while one is missing."""
        count = len(self.arms[name].trials) if name in self.arms else 0
        numbers = [Piece("trial", name, number) for number in range(count)]
        done = [rows[piece] for piece in numbers if piece in rows]
        return max(done, key=score) if done and len(done) == count else None

    def _chosen(
        self, name: str, rows: Mapping[Piece, Row]
    ) -> tuple[str, dict[str, Any]] | None:
        best = self._best_trial(name, rows)
        return None if best is None else (best["method"], best["setting"])

    def _best_bank(self, rows: Mapping[Piece, Row]) -> str | None:
        best = {name: self._best_trial(name, rows) for name in BANKS}
        scores = {name: score(row) for name, row in best.items() if row is not None}
        return max(BANKS, key=scores.__getitem__) if len(scores) == len(BANKS) else None


def score(row: Row) -> float:
    """The score of a trial: few-shot accuracy at its end."""
    return list(row["marks"].values())[-1][SCORE]


def without_test(data: ArrayDataset) -> ArrayDataset:
    """The training images, with a part of each class held out as the test."""
    assert data.train_labels is not None
    kept, held = hold_out(data.train_labels, seed=TRIAL_SEED, share=HELD_OUT)
    return ArrayDataset(
        f"{data.name}, held out",
        data.train_examples[kept],
        data.train_labels[kept],
        data.train_examples[held],
        data.train_labels[held],
        data.class_names,
    )


def play_all(tournament: Tournament, book: Book) -> None:
    """Runs every piece that is not finished and not claimed by another process."""
    while True:
        rows = book.rows()
        pieces = tournament.pieces(rows)
        open_pieces = [piece for piece in pieces if piece not in rows]
        if not open_pieces:
            return
        if not any(_take(tournament, book, piece) for piece in open_pieces):
            time.sleep(_WAIT_SECONDS)  # wait for the pieces of other processes


def _take(tournament: Tournament, book: Book, piece: Piece) -> bool:
    """Runs a piece, if it is not claimed and the pieces that it needs are done."""
    found = tournament.setting(piece, book.rows())
    if found is None:
        return False
    with book.claim(piece) as mine:
        if not mine or piece in book.rows():
            return False
        row = tournament.play(piece, *found)
        book.add(piece, {**row, "machine": machine()})
        print(*piece, row["setting"], list(row["marks"].values())[-1], flush=True)
    return True


def main() -> None:
    """Parses flags, runs unfinished pieces, prints and draws the results."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--source",
        required=True,
        help="Data set, see data.source; it has to fit in memory.",
    )
    parser.add_argument("--methods", nargs="+", metavar="ARM", default=[*ARMS])
    parser.add_argument(
        "--tries",
        action="store_true",
        help="Also try changes that might improve a bank.",
    )
    parser.add_argument("--budget", type=int, default=10, help="Epochs of a final.")
    parser.add_argument("--trial_epochs", type=int, default=2)
    parser.add_argument(
        "--seeds", type=int, default=3, help="Number of seeds of the finals."
    )
    parser.add_argument("--out", default="runs/bench/tournament.json")
    parser.add_argument("--figure", help="PNG file of the training curves.")
    parser.add_argument(
        "--show",
        action="store_true",
        help="Print the results so far and train nothing.",
    )
    flags = parser.parse_args()
    require_known("methods", flags.methods, ARMS)
    require_least(flags, budget=3, trial_epochs=2, seeds=1)
    data = load(flags.source)
    if not isinstance(data, ArrayDataset) or not data.has_labels:
        raise UserError(
            "--source: expected images in memory with labels and a test part, got "
            f"{data.name}"
        )
    arms = {name: ARMS[name] for name in flags.methods} | (TRIES if flags.tries else {})
    plan = {
        "images": data.train_count,
        "digest": data.digest(),
        "budget": flags.budget,
        "trial_epochs": flags.trial_epochs,
    }
    book = Book(pathlib.Path(flags.out), plan)
    if not flags.show:
        tournament = Tournament(
            data,
            epochs=flags.budget,
            trial_epochs=flags.trial_epochs,
            seeds=range(flags.seeds),
            arms=arms,
        )
        play_all(tournament, book)
    rows = list(book.rows().values())
    print(standings.report(rows))
    if flags.figure:
        standings.draw(rows, flags.figure)


if __name__ == "__main__":
    run_command(main)
