"""Fine-tuning of a run's network on labels: caco fine-tune --workdir=...

Each share of the labels fine-tunes a copy of the run's network.
"""

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from caco_jax.data.labelled import choose_rows
from caco_jax.evaluation import sweep
from caco_jax.evaluation.fine_tune import fine_tune
from caco_jax.evaluation.plans import FineTuning
from caco_jax.evaluation.scores import accuracies
from caco_jax.programs import evaluating
from caco_jax.programs.command import print_json
from caco_jax.programs.flags import parser_of
from caco_jax.runs.run import Run
from caco_jax.schema import ConfigError, UserError
from caco_jax.training.finite_check import check_finite


@contextlib.contextmanager
def plan_error() -> Iterator[None]:
    """Converts a ValueError about a setting to a UserError about its flag."""
    try:
        yield
    except ConfigError as error:
        raise error.renamed("--{}".format) from None
    except ValueError as error:
        raise UserError(f"--{error}") from None


def read_plan(flags: argparse.Namespace) -> FineTuning:
    """The fine-tuning settings of the flags."""
    values = {f.name: getattr(flags, f.name) for f in dataclasses.fields(FineTuning)}
    values["frozen"] = tuple(values["frozen"])
    with plan_error():
        return FineTuning(**values)


def tune(
    loaded: Run, plan: FineTuning, share: float, seed: int
) -> tuple[dict[str, Any], str]:
    """Fine-tunes on a share of the labels, and measures the accuracy."""
    train, test = evaluating.run_parts(loaded)
    pretraining = loaded.pretraining
    with evaluating.as_user_error("--labels"):
        rows = choose_rows(train, share=share, seed=seed)
    with plan_error(), jax.set_mesh(pretraining.mesh):
        tuned = fine_tune(
            pretraining.encoder,
            evaluating.training_views(loaded),
            loaded.network,
            train,
            rows,
            plan,
            num_classes=loaded.data.num_classes,
            seed=seed,
            put=evaluating.put_batch(loaded),
        )
    check_finite(0, {"loss": tuned.losses})
    frozen = evaluating.frozen_network(loaded)
    frozen = frozen._replace(network=tuned.network)
    scores, labels = sweep.collect_scores(
        tuned.head, sweep.part_features(frozen, test, np.arange(len(test)))
    )
    found = accuracies(scores, labels)
    last = float(tuned.losses[-1])
    result = {"share": share, "images": len(rows), "last_loss": last}
    line = (
        f"Fine-tuned on {share:g} of the labels ({len(rows)} images): "
        f"{evaluating.summary(found, len(labels))}"
    )
    return result | evaluating.figures(loaded, found), line


def main() -> None:
    """Parses flags and runs."""
    flags = parser_of("fine_tune").parse_args()
    plan = read_plan(flags)
    loaded = evaluating.open_run(flags)
    rows: list[dict[str, Any]] = []
    for share in flags.labels:
        row, line = tune(loaded, plan, share, flags.seed)
        rows.append(row)
        result = {"plan": dataclasses.asdict(plan), "results": rows}
        values = evaluating.save(loaded, flags, "fine_tune", result)
        if not flags.json:
            print(line)
    print_json(flags, values)
