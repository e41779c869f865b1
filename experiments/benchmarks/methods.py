"""Compares all methods and their CLAE versions on digits, with equal budgets.

python -m experiments.benchmarks.methods --out=runs/bench/methods.json

Encoder, views, batch and epochs are the same for all; a bank's start-up phase counts
among its epochs. Each run has its own workdir: rerun the same command to resume.
"""

import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from caco_jax.config.build import load_run, pretrain
from caco_jax.config.recipe import load_recipe, override
from caco_jax.config.sections import experiment_config
from caco_jax.evaluation.summary import evaluate_features
from caco_jax.methods.registry import METHODS
from caco_jax.programs.command import run
from caco_jax.programs.parser import Parser, parse
from caco_jax.schema import UserError, require
from experiments.benchmarks.timing import machine, write_json

WIDTH = 16
BATCH = 128
BUDGETS = (15, 60)
SEEDS = (0, 1, 2)
MEASURES = {"knn": "kNN", "linear": "linear", "few_shot_mean": "3 labels a class"}
CONTENDERS = tuple(f"{name}{variant}" for name in METHODS for variant in ("", ":clae"))


def budget_settings(epochs: int, *, starts_up: bool, has_bank: bool) -> list[str]:
    """The assignments in a recipe for a budget of epochs.

    Args:
        epochs: total number of epochs, including a start-up phase.
        starts_up: whether the method has a start-up phase; it gets a quarter.
        has_bank: whether the method has a second optimiser.
    """
    start_up = epochs // 4 if starts_up else 0
    warmup = min(5, epochs // 4)
    settings = {
        "encoder.width": WIDTH,
        "training.batch_size": BATCH,
        "training.epochs": epochs - start_up,
        "optimizer.warmup_epochs": warmup,
        "evaluation.knn_every_epochs": epochs,
        "training.checkpoint_every_epochs": epochs,
    }
    if starts_up:
        settings["method.start_up_epochs"] = start_up
    if has_bank:
        settings["bank_optimizer.warmup_epochs"] = warmup
    return [f"{key}={value}" for key, value in settings.items()]


def learn(
    contender: str,
    *,
    epochs: int,
    seed: int,
    workdir: pathlib.Path,
    assignments: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains one run, unless it is finished, and evaluates it on the held-out images.

    Args:
        contender: a method, or "method:clae".
        epochs: the budget.
        seed: seed of the run.
        workdir: directory of the run.
        assignments: "a.b=value", changed values of the recipe.
    """
    method, _, variant = contender.partition(":")
    recipe = load_recipe(f"configs/{method}_digits.py:{variant}".rstrip(":"))
    settings = budget_settings(
        epochs,
        starts_up="start_up_epochs" in recipe.method,
        has_bank="bank_optimizer" in recipe,
    )
    recipe = override(recipe, [*settings, f"seed={seed}", *assignments])
    summary = pretrain(experiment_config(recipe), workdir)
    trained = load_run(workdir)
    train, test = trained.features()
    num_classes = trained.data.num_classes
    return {
        "contender": contender,
        "epochs": epochs,
        "seed": seed,
        **evaluate_features(*train, *test, num_classes=num_classes),
        "pretrain_seconds": summary["pretrain_seconds"],
    }


def spread(rows: Iterable[dict[str, Any]], measure: str) -> str:
    """Mean and, for several seeds, standard deviation in per cent."""
    values = [100 * row[measure] for row in rows]
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each contender and budget, as Markdown."""
    heads = ["method", "epochs", *MEASURES.values()]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for epochs in sorted({row["epochs"] for row in rows}):
        for contender in dict.fromkeys(row["contender"] for row in rows):
            alike = [
                row
                for row in rows
                if (row["contender"], row["epochs"]) == (contender, epochs)
            ]
            if alike:
                name = contender.replace(":", " + ")
                cells = [name, str(epochs), *(spread(alike, key) for key in MEASURES)]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parses flags, trains missing runs, prints the table."""
    parser = Parser(
        description=__doc__,
        epilog="--config.SECTION.KEY=VALUE replaces a value in all recipes.",
    )
    parser.add_argument("--methods", nargs="+", default=CONTENDERS, metavar="NAME")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument(
        "--out", default="runs/bench/methods.json", help="JSON file to write."
    )
    flags, assignments = parse(parser)
    for name in flags.methods:
        require(
            name in CONTENDERS,
            f"--methods: expected some of {', '.join(CONTENDERS)}, got {name!r}",
        )
    if min(flags.budgets) < 1:
        raise UserError(f"--budgets: expected epochs >= 1, got {flags.budgets}")
    out = pathlib.Path(flags.out)
    rows = []
    for epochs in flags.budgets:
        for seed in flags.seeds:
            for contender in flags.methods:
                workdir = out.with_suffix("") / contender / f"{epochs}_{seed}"
                row = learn(
                    contender,
                    epochs=epochs,
                    seed=seed,
                    workdir=workdir,
                    assignments=assignments,
                )
                rows.append(row)
                figures = {"machine": machine(), "changed": assignments, "rows": rows}
                write_json(out, figures)
    print(table(rows))


if __name__ == "__main__":
    run(main)
