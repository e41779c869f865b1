"""Pretrains CaCo on handwritten digits, evaluates it and prints one table."""

import contextlib
from typing import Any

import jax
import numpy as np

from caco_jax.analysis import plots
from caco_jax.config.build import load_run, pretrain
from caco_jax.data.dataset import ArrayDataset
from caco_jax.evaluation.summary import evaluate_features
from caco_jax.methods.bank_use import RECENT_STEPS
from caco_jax.programs.command import read_config
from caco_jax.programs.flags import parser_of
from caco_jax.programs.parser import parse
from caco_jax.programs.reporting import make_reporter
from caco_jax.runs.checkpoints import write_json
from caco_jax.runs.machine import peak_memory_bytes
from caco_jax.runs.preemption import Stop
from caco_jax.runs.run import (
    Run,
    Split,
    make_network_features,
    raw_features,
)

ROWS = {
    "pretrained": "pretrained encoder",
    "random_encoder": "random encoder",
    "raw_pixels": "raw pixels",
}


def table(results: dict[str, Any]) -> str:
    """The table of results as text."""
    lines = [f"{'':20}{'kNN':>8}{'linear':>9}{'3 labels a class':>20}"]
    for key, name in ROWS.items():
        row = results[key]
        few = f"{row['few_shot_mean']:.1%} ± {row['few_shot_std']:.1%}"
        lines.append(f"{name:20}{row['knn']:8.1%}{row['linear']:9.1%}{few:>20}")
    return "\n".join(lines)


def evaluate(trained: Run) -> dict[str, Any]:
    """Rows of the table; the numbers are saved in the directory of the run."""
    pretraining = trained.pretraining

    def row(train: Split, test: Split) -> dict[str, float]:
        return evaluate_features(
            *train,
            *test,
            num_classes=trained.data.num_classes,
            k=pretraining.evaluation.knn_neighbours,
            temperature=pretraining.evaluation.knn_temperature,
        )

    network_features = make_network_features(pretraining)
    train, test = network_features(trained.network)
    _draw(trained, test)
    return {
        "pretrained": row(train, test),
        "random_encoder": row(*network_features(pretraining.new_network())),
        "raw_pixels": row(*raw_features(trained)),
    }


def _draw(trained: Run, test: Split) -> None:
    """Saves the drawings in the directory of the run."""
    folder, rows = trained.files.path, trained.files.read_metrics()
    plots.plot_learning_curves(rows, folder / "learning_curves.png")
    plots.plot_bank_use(rows, folder / "bank_use.png", recent_steps=RECENT_STEPS)
    plots.plot_embedding_map(
        np.asarray(test.features),
        np.asarray(test.labels),
        folder / "embedding_map.png",
        class_names=trained.data.class_names,
    )


def main(stop: Stop | None = None) -> None:
    """Parses flags and runs.

    Args:
        stop: receives signals; None ignores them.
    """
    flags, assignments = parse(parser_of("demo"))
    config = read_config(flags.config, assignments)
    with contextlib.closing(make_reporter(flags)) as reporter:
        summary = pretrain(
            config,
            flags.workdir,
            force_new=flags.fresh,
            stop=stop,
            reporter=reporter,
        )
    # compiling the probes needs the memory that compiling the steps used
    jax.clear_caches()
    trained = load_run(flags.workdir)
    results = evaluate(trained)
    results |= {
        "pretrain_seconds": summary["pretrain_seconds"],
        "images_per_second": summary["images_per_second"],
        "machine": summary["machine"],
        "peak_memory_bytes": max(summary["peak_memory_bytes"], peak_memory_bytes()),
    }
    write_json(trained.files.path / "demo.json", results)
    images = trained.pretraining.data
    assert isinstance(images, ArrayDataset)  # the probes on raw pixels are finished
    print(f"\nHandwritten digits, {len(images.test_examples)} held out:")
    print(table(results))
    print(
        f"\n{summary['epochs']} epochs in {results['pretrain_seconds']:.0f} s, "
        f"{results['images_per_second']:,.0f} images/s, at most "
        f"{results['peak_memory_bytes'] / 1e6:,.0f} MB, on {results['machine']}.\n"
        f"Figures and demo.json are in {flags.workdir}/."
    )
