"""Linear probe of a run: python -m experiments.linear_probe --workdir=...

Features once, then multinomial logistic regression to convergence.
"""

from caco_jax.evaluation import linear
from caco_jax.training.checkpoints import write_json
from caco_jax.training.runs import load_run, make_network_features
from experiments.command import Parser, blame, run


def main() -> None:
    """Parses flags and runs."""
    parser = Parser(description=__doc__)
    parser.add_argument("--workdir", required=True, help="the run's directory")
    parser.add_argument(
        "--l2", type=float, default=linear.L2, help="penalty on the weights"
    )
    flags = parser.parse_args()
    loaded = load_run(flags.workdir)
    train, test = make_network_features(loaded.experiment)(loaded.network)
    with blame("--l2"):
        model = linear.fit_logistic_regression(
            *train, num_classes=loaded.experiment.images.num_classes, l2=flags.l2
        )
    result = {
        "step": int(loaded.state.step),
        "l2": flags.l2,
        "train_accuracy": linear.accuracy(model, *train),
        "accuracy": linear.accuracy(model, *test),
    }
    print(
        f"Linear probe, L2 {flags.l2:g}: {result['accuracy']:.2%} of "
        f"{len(test.labels)} held-out images ({result['train_accuracy']:.2%} of the "
        "training images)"
    )
    write_json(loaded.files.path / "linear_probe.json", result)


if __name__ == "__main__":
    run(main)
