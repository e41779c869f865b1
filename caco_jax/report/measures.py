"""Reads the results of the evaluation commands as rows of one table."""

import json
import pathlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

Values = Mapping[str, Any]


class Measure(NamedTuple):
    """One result of an evaluation.

    Attributes:
        what: in words.
        value: a fraction.
        low: end of its interval; None where the command gives none.
        high: the other end.
        interval: what the interval is, in words.
    """

    what: str
    value: float
    low: float | None = None
    high: float | None = None
    interval: str = ""


def _knn(found: Values) -> Iterator[Measure]:
    for row in found["results"]:
        what = f"kNN, {row['k']} neighbours, temperature {row['temperature']:g}"
        yield Measure(what, row["accuracy"])


def _with_interval(what: str, row: Values, key: str = "accuracy") -> Measure:
    low, high = row["interval"]
    return Measure(what, row[key], low, high, "95% by bootstrap")


def _linear_probe(found: Values) -> Iterator[Measure]:
    how = found["protocol"]
    if "mean_average_precision" in found:
        what = "Linear probe, mean average precision"
        yield _with_interval(what, found, "mean_average_precision")
        return
    kind = "logistic regression" if how == "lbfgs" else f"{how} protocol"
    yield _with_interval(f"Linear probe, {kind}", found)
    yield Measure(f"Linear probe, {kind}, top 5", found["top5"])


def _few_shot(found: Values) -> Iterator[Measure]:
    for row in found["results"]:
        yield _spread(
            f"Few-shot, {_labels(row['shots'])} a class",
            row["mean"],
            row["std"],
            f"± deviation of {len(row['each'])} draws",
        )


def _labels(count: int) -> str:
    return "1 label" if count == 1 else f"{count} labels"


def _spread(what: str, mean: float, deviation: float, of: str) -> Measure:
    return Measure(what, mean, mean - deviation, mean + deviation, of)


def _fine_tune(found: Values) -> Iterator[Measure]:
    for row in found["results"]:
        share = f"{row['share']:.0%} of the labels ({row['images']:,} images)"
        yield _with_interval(f"Fine-tuned on {share}", row)


class Command(NamedTuple):
    """An evaluation command: its name, what it measures and how its file is read."""

    program: str
    measures: str
    read: Callable[[Values], Iterator[Measure]]


# By the stem of the file; that of other images goes on with their name.
COMMANDS = {
    "knn": Command("knn", "kNN accuracy", _knn),
    "linear_probe": Command("probe", "The linear probe", _linear_probe),
    "few_shot": Command("few-shot", "Accuracy from few labels", _few_shot),
    "fine_tune": Command("fine-tune", "Accuracy after fine-tuning", _fine_tune),
}
# Of demo.json, as `caco demo` prints it.
DEMO_ROWS = {
    "pretrained": "This encoder",
    "random_encoder": "Untrained encoder",
    "raw_pixels": "Raw pixels",
}
DEMO_COLUMNS = ("kNN", "Linear probe", "3 labels a class")


def read_json(path: pathlib.Path) -> Any:
    """The value of a JSON file; None if the file is missing or incomplete."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def run_measures(folder: pathlib.Path) -> list[dict[str, Any]]:
    """All evaluation results in the directory of a run.

    Returns:
        `Measure`'s fields, with "images" and "step" as its file says them, and
        "by_class" on the first figure of a file that has it.
    """
    rows: list[dict[str, Any]] = []
    for stem, command in COMMANDS.items():
        for path in sorted(folder.glob(f"{stem}*.json")):
            if path.stem == stem or path.stem.startswith(f"{stem}_"):
                rows.extend(_rows(read_json(path), command))
    return rows


def demo_table(folder: pathlib.Path) -> dict[str, Any] | None:
    """The table of `caco demo`: "columns", and "rows" with "name" and "cells".

    A cell is [accuracy, its deviation or None]. None without a demo's results.
    """
    found = read_json(folder / "demo.json")
    try:
        rows = [
            {
                "name": name,
                "cells": [
                    [found[key]["knn"], None],
                    [found[key]["linear"], None],
                    [found[key]["few_shot_mean"], found[key]["few_shot_std"]],
                ],
            }
            for key, name in DEMO_ROWS.items()
        ]
    except (KeyError, TypeError):  # no such file, or another program's
        return None
    return {"columns": list(DEMO_COLUMNS), "rows": rows}


def _rows(found: Any, command: Command) -> list[dict[str, Any]]:
    if not isinstance(found, dict):
        return []
    try:
        measures = list(command.read(found))
    except (KeyError, TypeError):  # a file of that name which another program wrote
        return []
    rows = [
        {**m._asdict(), "images": found.get("images"), "step": found.get("step")}
        for m in measures
    ]
    if rows and isinstance(found.get("by_class"), dict):
        rows[0]["by_class"] = found["by_class"]
    return rows


def missing(folder: pathlib.Path, workdir: str) -> list[dict[str, str]]:
    """The missing evaluations: {"section" of the page, "measures", "command"}.

    Args:
        folder: the run's directory.
        workdir: the same, as the command should say it.
    """
    every = [
        *(("evaluation", stem, c.program, c.measures) for stem, c in COMMANDS.items()),
        ("diagnostics", "health", "health", "The health of the features"),
    ]
    return [
        {
            "section": section,
            "measures": what,
            "command": command_line(program, workdir),
        }
        for section, stem, program, what in every
        if not any(folder.glob(f"{stem}*.json"))
    ]


def command_line(program: str, workdir: str) -> str:
    """The command line that runs a program on a run."""
    return f"caco {program} --workdir={shlex.quote(workdir)}"
