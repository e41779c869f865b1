"""Accuracy from few labels: caco few-shot --workdir=...

Fits the linear probe to a few labelled images of each class, drawn again for each seed.
"""

from caco_jax.evaluation.few_shot import few_shot_accuracy, spread
from caco_jax.programs.command import as_user_error
from caco_jax.programs.evaluating import finish, open_run, run_features
from caco_jax.programs.flags import parser_of


def main() -> None:
    """Parses flags and runs."""
    flags = parser_of("few_shot").parse_args()
    loaded = open_run(flags)
    train, test = run_features(loaded)
    rows = []
    for shots in flags.shots:
        with as_user_error("--shots, --seeds, --l2"):
            found = few_shot_accuracy(
                *train,
                *test,
                shots=shots,
                seeds=range(flags.seeds),
                num_classes=loaded.data.num_classes,
                l2=flags.l2,
            )
        mean, std = spread(found)
        rows.append({"shots": shots, "mean": mean, "std": std, "each": found.tolist()})
    lines = (
        f"Few-shot, {row['shots']} {'label' if row['shots'] == 1 else 'labels'} a "
        f"class: {row['mean']:.2%} ± {row['std']:.2%} of {len(test.labels)} held-out "
        f"images, {flags.seeds} draws"
        for row in rows
    )
    finish(loaded, flags, "few_shot", {"l2": flags.l2, "results": rows}, lines)
