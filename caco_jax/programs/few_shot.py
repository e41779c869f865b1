"""Accuracy from few labels: python -m experiments.few_shot --workdir=...

The linear probe fitted to some labelled images of each class, drawn anew by each seed.
"""

from caco_jax.evaluation import linear
from caco_jax.evaluation.few_shot import few_shot_accuracy, spread
from caco_jax.programs.command import blame
from caco_jax.programs.evaluating import add_run_flags, open_run, run_features, save
from caco_jax.programs.parser import Parser


def main() -> None:
    """Parses flags and runs."""
    parser = Parser(description=__doc__)
    add_run_flags(parser)
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[1, 3, 10], help="labels a class"
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many draws")
    parser.add_argument(
        "--l2", type=float, default=linear.L2, help="penalty on the weights"
    )
    flags = parser.parse_args()
    loaded = open_run(flags)
    train, test = run_features(loaded)
    rows = []
    for shots in flags.shots:
        with blame("--shots, --seeds, --l2"):
            found = few_shot_accuracy(
                *train,
                *test,
                shots=shots,
                seeds=range(flags.seeds),
                num_classes=loaded.pretraining.data.num_classes,
                l2=flags.l2,
            )
        mean, std = spread(found)
        rows.append({"shots": shots, "mean": mean, "std": std, "each": found.tolist()})
    for row in rows:
        plural = "label" if row["shots"] == 1 else "labels"
        print(
            f"Few-shot, {row['shots']} {plural} a class: {row['mean']:.2%} ± "
            f"{row['std']:.2%} of {len(test.labels)} held-out images, {flags.seeds} "
            "draws"
        )
    save(loaded, flags, "few_shot", {"l2": flags.l2, "results": rows})
