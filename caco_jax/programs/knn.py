"""kNN accuracy of a run's frozen features: caco knn --workdir=..."""

import jax

from caco_jax.evaluation.knn import knn_accuracy
from caco_jax.programs.command import as_user_error
from caco_jax.programs.evaluating import finish, open_run, run_features
from caco_jax.programs.flags import parser_of


def main() -> None:
    """Parses flags and runs."""
    flags = parser_of("knn").parse_args()
    loaded = open_run(flags)
    train, test = run_features(loaded, kind=flags.features)
    settings = [(k, t) for k in flags.k for t in flags.temperature]
    with as_user_error("--k, --temperature"), jax.set_mesh(loaded.pretraining.mesh):
        accuracies = knn_accuracy(
            *test,
            *train,
            num_classes=loaded.data.num_classes,
            settings=settings,
        )
    rows = [
        {"k": k, "temperature": temperature, "accuracy": accuracy}
        for (k, temperature), accuracy in zip(settings, accuracies, strict=True)
    ]
    lines = (
        f"kNN: {row['accuracy']:.2%} of {len(test.labels)} held-out images, "
        f"k {row['k']}, temperature {row['temperature']:g}"
        for row in rows
    )
    finish(loaded, flags, "knn", {"results": rows}, lines)
