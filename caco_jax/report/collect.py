"""Collects the content of a report as JSON values: metrics, settings, figures."""

import contextlib
import math
import os
from collections.abc import Sequence
from typing import Any

import jax

from caco_jax.config.build import load_run
from caco_jax.report import figures, measures
from caco_jax.report.sample import are_pictures, draw_sample, sheet
from caco_jax.report.settings import setting_rows
from caco_jax.report.verdicts import run_verdicts
from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.pretraining import BUILT_OF, OBJECTS, Pretraining
from caco_jax.runs.run import Run
from caco_jax.runs.workdir import Workdir
from caco_jax.schema import UserError

TRAIN_IMAGES = 1024  # at most, that play with the bank
HELD_OUT_IMAGES = 600  # at most, on the map
SMALL_PIXELS = 32  # larger images are shown half as many


def collect(
    run: Run | str | os.PathLike, compare: Sequence[str | os.PathLike] = ()
) -> dict[str, Any]:
    """Collects the content of a report.

    Args:
        run: as `Pretraining.load` gives it; or the directory of a configuration's run.
        compare: directories of other runs, whose curves, figures and settings stand
            beside.

    Raises:
        UserError: a directory holds no run, or the run has no checkpoint yet.
    """
    others = [_other(path) for path in compare]
    called = os.fspath(run.files.path if isinstance(run, Run) else run)
    if not isinstance(run, Run):
        run = load_run(run)
    folders = list({files.path: files for files in [run.files, *others]}.values())
    names = run_names([files.path for files in folders])
    # Commands evaluate what a configuration describes.
    in_python = run.pretraining.description.values.get(BUILT_OF) == OBJECTS
    asked = run.pretraining.data.has_labels and not in_python
    page = {
        "run": _about(run, names[0]),
        "runs": names,
        **_progress(run, [files.read_metrics() for files in folders]),
        "measures": [measures.run_measures(files.path) for files in folders],
        "demos": [measures.demo_table(files.path) for files in folders],
        "missing": measures.missing(run.files.path, called) if asked else [],
        "settings": setting_rows(
            dict(zip(names, (files.read_config() for files in folders), strict=True))
        ),
        "classes": list(run.pretraining.data.class_names),
        **_looks(run),
    }
    return finite(page)


def _progress(run: Run, rows: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    """The diagnostics of a run, and its curves with those of other runs."""
    training, method = run.pretraining.training, run.pretraining.method
    candidates = method.candidates(training.batch_size) if method.candidates else None
    health = measures.read_json(run.files.path / "health.json")
    verdicts = run_verdicts(
        rows[0], health, epochs=training.epochs, candidates=candidates
    )
    return {
        "verdicts": [verdict._asdict() for verdict in verdicts],
        "curves": curves(rows, chance=math.log(candidates) if candidates else None),
    }


def _other(path: str | os.PathLike) -> Workdir:
    files = Workdir(path)
    if not files.has_run():
        raise UserError(
            f"--compare: expected directories of runs, got {files.path}: it has no "
            "config.json"
        )
    return files


def run_names(paths: Sequence[os.PathLike]) -> list[str]:
    """Short names of directories: the last part, with parents where names are equal."""
    parts = [os.fspath(path).strip(os.sep).split(os.sep) for path in paths]
    length = 1
    while len({tuple(part[-length:]) for part in parts}) < len(parts):
        length += 1
    return [os.sep.join(part[-length:]) for part in parts]


def _about(run: Run, name: str) -> dict[str, Any]:
    provenance: dict[str, Any] = {}
    with contextlib.suppress(UserError), Checkpoints(run.files) as checkpoints:
        record = checkpoints.read_progress()
        provenance = record.provenance if record else {}
    players = {
        player: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for player, tree in run.state.players.items()
    }
    return {
        "name": name,
        "path": str(run.files.path),
        "description": run.pretraining.method.description,
        "images": run.pretraining.data.name,
        "step": int(run.state.step),
        "start_up": _start_up(run.pretraining),
        "numbers": players,
        "summary": measures.read_json(run.files.summary_file) or {},
        "versions": provenance.get("versions", {}),
        "devices": provenance.get("devices", []),
    }


def _start_up(pretraining: Pretraining) -> dict[str, Any] | None:
    """The start-up phase: its length and its method."""
    phase, steps = pretraining.method.start_up, pretraining.start_up_steps
    if phase is None or not steps:
        return None
    return {
        "steps": steps,
        "epochs": steps / pretraining.steps_per_epoch,
        "description": phase.method.description,
    }


def curves(
    runs: Sequence[Sequence[dict[str, Any]]], *, chance: float | None
) -> list[dict[str, Any]]:
    """The metrics of some runs over epochs.

    Args:
        runs: the metric lines of each.
        chance: cross entropy of an encoder that knows nothing.

    Returns:
        For each metric that has a value: "name"; "x", the epochs; "series", a list a
        run with None where it has no value; and "chance", or None.
    """
    epochs = sorted({row["epoch"] for rows in runs for row in rows})
    by_epoch = [{row["epoch"]: row for row in rows} for rows in runs]
    names = dict.fromkeys(
        name
        for rows in runs
        for row in rows
        for name, value in row.items()
        if isinstance(value, int | float)
    )
    return [
        {
            "name": name,
            "x": epochs,
            "series": [
                [of_run.get(epoch, {}).get(name) for epoch in epochs]
                for of_run in by_epoch
            ],
            "chance": chance if name == "cross_entropy" else None,
        }
        for name in names
        if name not in ("epoch", "step")
    ]


def _looks(run: Run) -> dict[str, Any]:
    """Embedding map, bank, pair weights and views of a sample of examples."""
    train = draw_sample(run.pretraining, count=TRAIN_IMAGES, held_out=False)
    pictures = are_pictures(train.pixels)
    halved = 2 if pictures and max(train.pixels.shape[1:3]) > SMALL_PIXELS else 1
    train = train._replace(pixels=train.pixels[::halved], labels=train.labels[::halved])
    held_out = draw_sample(
        run.pretraining, count=HELD_OUT_IMAGES // halved, held_out=True
    )
    encoded = figures.encode(run, train)
    if encoded is None:
        nothing = dict.fromkeys(("map", "pairs", "bank", "views", "train"))
        return {"pictures": pictures, **nothing}
    return {
        "pictures": pictures,
        "map": figures.embedding_map(run, held_out),
        "pairs": figures.pair_weights(run, train, encoded),
        "bank": figures.bank_entries(run, train, encoded),
        "views": figures.seen_views(run),
        "train": {"labels": train.labels.tolist(), "sheet": sheet(train.pixels)},
    }


def finite(value: Any) -> Any:
    """Replaces NaN and infinite numbers in a value by None, for JSON."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
