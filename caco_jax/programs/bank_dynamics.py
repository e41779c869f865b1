"""Dynamics of a run's bank or queue: caco analyse bank --workdir=...

Measures, over all checkpoints of the run (training.keep_checkpoints), how closely the
bank follows the queries, which entries are unused (nearest to no query), how fast the
bank moves, and which queries each payoff weights most; draws the images nearest to its
entries. Writes bank_dynamics.json and bank_*.png into WORKDIR/analysis.
"""

from typing import Any

import numpy as np

from caco_jax.analysis import bank_history, plots_bank, snapshots
from caco_jax.analysis.bank_history import Moment
from caco_jax.analysis.plots_bank import History
from caco_jax.programs.command import as_user_error, aside, print_json
from caco_jax.programs.flags import parser_of
from caco_jax.runs.checkpoints import write_json
from caco_jax.runs.pretraining import Pretraining


def dynamics(moments: list[Moment], steps_per_epoch: int, folder: Any) -> dict:
    """Statistics of the bank or queue over the checkpoints, printed and drawn."""
    name = moments[-1].memory.name
    print(
        f"{'step':>6}{name + ' -> query':>16}{'query -> ' + name:>16}{'unused':>8}"
        f"{'with itself before':>20}"
    )
    rows = [moment.summary() for moment in moments]
    for row in rows:
        before = row["with_itself_before"]
        print(
            f"{row['step']:6}{row['entry_to_nearest_query']:16.3f}"
            f"{row['query_to_nearest_entry']:16.3f}{row['unused_share']:8.1%}"
            f"{'-' if before is None else f'{before:.3f}':>20}"
        )
    if len(rows) == 1:
        print(
            "one checkpoint only, so no change is measured; "
            "--config.training.keep_checkpoints keeps more"
        )
    series = {
        f"{name} entry, nearest query": [row["entry_to_nearest_query"] for row in rows],
        f"query, nearest {name} entry": [row["query_to_nearest_entry"] for row in rows],
    }
    ages = moments[-1].memory.ages
    by_age = None
    if ages is None:
        series["entry, itself before"] = [
            np.nan if row["with_itself_before"] is None else row["with_itself_before"]
            for row in rows
        ]
    else:
        by_age = bank_history.cosine_by_age(ages, moments[-1].tracking.entries)
        print(
            f"queue: entries are {ages.mean():.1f} steps old on average, the newest "
            f"{by_age[1][0]:.3f} and the oldest {by_age[1][-1]:.3f} near a query"
        )
    plots_bank.plot_dynamics(
        History([row["step"] / steps_per_epoch for row in rows], series),
        moments[-1].tracking.uses,
        folder / "bank_dynamics.png",
        by_age=by_age,
    )
    result: dict[str, Any] = {"memory": name, "checkpoints": rows}
    if by_age is not None:
        result["age_steps"], result["cosine_by_age"] = (
            part.tolist() for part in by_age
        )
    return result


def focus(pretraining: Pretraining, state: Any, flags: Any, folder: Any) -> dict:
    """Weights of the queries in each payoff, on augmented views as in training."""
    settings: Any = pretraining.method.settings
    batch = snapshots.draw_batch(
        pretraining,
        size=len(snapshots.in_memory(pretraining).train_examples),
        seed=flags.seed,
    )
    order = np.random.default_rng(flags.seed).permutation(len(batch.rows))
    queries, keys = snapshots.encode_pairs(pretraining, state, batch)
    memory = snapshots.memory(pretraining, state)
    temperature = getattr(settings, "bank_temperature", settings.temperature)
    with as_user_error("--bandwidth"):
        found = bank_history.focus_on_density(
            queries[order],
            keys[order],
            memory.rows,
            temperature=temperature,
            batch_size=pretraining.training.batch_size,
            bandwidth=flags.bandwidth,
        )
    for density, by_payoff in found.correlations.items():
        print(f"weight of a query against its density {density}:")
        for payoff, value in by_payoff.items():
            print(
                f"  {payoff}: rank correlation {value:+.2f}; densest over sparsest "
                f"tenth {found.dense_over_sparse[density][payoff]:.3g}"
            )
    plots_bank.plot_density(
        found.densities, found.weights, found.correlations, folder / "bank_density.png"
    )
    return {
        "rank_correlation": found.correlations,
        "dense_over_sparse": found.dense_over_sparse,
    }


def gallery(pretraining: Pretraining, moment: Moment, flags: Any, folder: Any) -> None:
    """The images nearest to the most and the least used entries."""
    images = snapshots.in_memory(pretraining).train_examples
    rows = bank_history.gallery_rows(moment, entries=flags.entries, images=flags.images)
    plots_bank.plot_gallery(
        [(f"{what} used: {uses}", images[near]) for what, uses, near in rows],
        folder / "bank_gallery.png",
    )


def analyse(flags: Any) -> dict:
    """All measurements, printed, drawn and saved."""
    files, pretraining = snapshots.read_parts(flags.workdir)
    moments = bank_history.read_history(files, pretraining)
    folder = files.path / "analysis"
    folder.mkdir(exist_ok=True)
    result = dynamics(moments, pretraining.steps_per_epoch, folder)
    state = snapshots.read_state(files, pretraining, step=moments[-1].step)
    result["density"] = focus(pretraining, state, flags, folder)
    with as_user_error("--entries, --images"):
        gallery(pretraining, moments[-1], flags, folder)
    write_json(folder / "bank_dynamics.json", result)
    return result


def main() -> None:
    """Parses flags and runs."""
    flags = parser_of("bank_dynamics").parse_args()
    with aside(flags):
        result = analyse(flags)
    print_json(flags, result)
