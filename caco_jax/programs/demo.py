"""Pretrains CaCo on handwritten digits, evaluates it and prints one table."""

import contextlib
from typing import Any

import jax
import numpy as np

from caco_jax.analysis import plots
from caco_jax.data.sources import ImageSet
from caco_jax.evaluation.summary import evaluate_features
from caco_jax.methods.bank_use import RECENT_STEPS
from caco_jax.programs.command import read_config
from caco_jax.programs.parser import Parser, parse
from caco_jax.programs.reporting import add_reporting_flags, make_reporter
from caco_jax.training.assemble import new_network
from caco_jax.training.checkpoints import write_json
from caco_jax.training.pretrain import peak_memory_bytes, pretrain
from caco_jax.training.runs import (
    Run,
    Split,
    load_run,
    make_network_features,
    pixel_features,
)

ROWS = {
    "pretrained": "pretrained encoder",
    "random_encoder": "random encoder",
    "raw_pixels": "raw pixels",
}


def table(results: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"{'':20}{'kNN':>8}{'linear':>9}{'3 labels a class':>20}"]
    for key, name in ROWS.items():
        row = results[key]
        few = f"{row['few_shot_mean']:.1%} ± {row['few_shot_std']:.1%}"
        lines.append(f"{name:20}{row['knn']:8.1%}{row['linear']:9.1%}{few:>20}")
    return "\n".join(lines)


def evaluate(trained: Run) -> dict[str, Any]:
    """The table's rows; figures are saved beside the run."""
    experiment = trained.experiment

    def row(train: Split, test: Split) -> dict[str, float]:
        num_classes = experiment.images.num_classes
        return evaluate_features(*train, *test, num_classes=num_classes)

    network_features = make_network_features(experiment)
    train, test = network_features(trained.network)
    _draw(trained, test)
    return {
        "pretrained": row(train, test),
        "random_encoder": row(*network_features(new_network(experiment))),
        "raw_pixels": row(*pixel_features(experiment)),
    }


def _draw(trained: Run, test: Split) -> None:
    """Saves the figures beside the run."""
    folder, rows = trained.files.path, trained.files.read_metrics()
    plots.plot_learning_curves(rows, folder / "learning_curves.png")
    plots.plot_bank_use(rows, folder / "bank_use.png", recent_steps=RECENT_STEPS)
    plots.plot_embedding_map(
        np.asarray(test.features),
        np.asarray(test.labels),
        folder / "embedding_map.png",
        class_names=trained.experiment.images.class_names,
    )


def main() -> None:
    """Parses flags and runs."""
    parser = Parser(description=__doc__)
    parser.add_argument("--config", default="caco_digits", help="a recipe")
    parser.add_argument("--workdir", default="runs/caco_digits", help="the run's place")
    parser.add_argument(
        "--fresh",
        "--force_new",  # as experiments.pretrain and the message of a mismatch have it
        action="store_true",
        help="start over; a run already there is moved to WORKDIR.old",
    )
    add_reporting_flags(parser)
    flags, assignments = parse(parser)
    config = read_config(flags.config, assignments)
    with contextlib.closing(make_reporter(flags)) as reporter:
        summary = pretrain(
            config, flags.workdir, force_new=flags.fresh, reporter=reporter
        )
    jax.clear_caches()  # the probes' compilation takes the memory of the steps'
    trained = load_run(flags.workdir)
    results = evaluate(trained)
    results |= {
        "pretrain_seconds": summary["pretrain_seconds"],
        "images_per_second": summary["images_per_second"],
        "peak_memory_bytes": max(summary["peak_memory_bytes"], peak_memory_bytes()),
    }
    write_json(trained.files.path / "demo.json", results)
    images = trained.experiment.images
    assert isinstance(images, ImageSet)  # raw pixels have been evaluated
    print(f"\nHandwritten digits, {len(images.test_images)} held out:")
    print(table(results))
    print(
        f"\n{summary['epochs']} epochs in {results['pretrain_seconds']:.0f} s, "
        f"{results['images_per_second']:,.0f} images/s, at most "
        f"{results['peak_memory_bytes'] / 1e6:,.0f} MB. Figures and demo.json are in "
        f"{flags.workdir}/."
    )
