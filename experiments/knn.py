"""kNN accuracy of a run's frozen features: python -m experiments.knn --workdir=..."""

from caco_jax.evaluation.knn import knn_accuracy
from caco_jax.training.checkpoints import write_json
from caco_jax.training.runs import load_run, make_network_features
from experiments.command import Parser, blame, run


def main() -> None:
    """Parses flags and runs."""
    parser = Parser(description=__doc__)
    parser.add_argument("--workdir", required=True, help="the run's directory")
    parser.add_argument("--k", type=int, nargs="+", default=[20], help="neighbours")
    parser.add_argument("--temperature", type=float, default=0.2, help="of the votes")
    flags = parser.parse_args()
    loaded = load_run(flags.workdir)
    train, test = make_network_features(loaded.experiment)(loaded.network)
    settings = [(k, flags.temperature) for k in flags.k]
    with blame("--k, --temperature"):
        accuracies = knn_accuracy(
            *test,
            *train,
            num_classes=loaded.experiment.images.num_classes,
            settings=settings,
        )
    rows = [
        {"k": k, "temperature": temperature, "accuracy": accuracy}
        for (k, temperature), accuracy in zip(settings, accuracies, strict=True)
    ]
    for row in rows:
        print(
            f"kNN, k {row['k']}, temperature {row['temperature']:g}: "
            f"{row['accuracy']:.2%} of {len(test.labels)} held-out images"
        )
    step = int(loaded.state.step)
    write_json(loaded.files.path / "knn.json", {"step": step, "results": rows})


if __name__ == "__main__":
    run(main)
