"""Pretrains an encoder: python -m experiments.pretrain --config=... --workdir=..."""

from caco_jax.training.pretrain import pretrain
from experiments.command import Parser, ProgressBar, parse, read_config, run


def main() -> None:
    """Parses flags and runs."""
    parser = Parser(
        description=__doc__,
        epilog="--config.SECTION.KEY=VALUE replaces a value of the recipe.",
    )
    parser.add_argument("--config", required=True, help="a recipe, a Python file")
    parser.add_argument("--workdir", required=True, help="the run's directory")
    parser.add_argument(
        "--force_new",
        action="store_true",
        help="start over; a run already there is moved to WORKDIR.old",
    )
    flags, assignments = parse(parser)
    config = read_config(flags.config, assignments)
    summary = pretrain(
        config, flags.workdir, force_new=flags.force_new, report=ProgressBar()
    )
    print(
        f"The run in {flags.workdir} is complete: {summary['epochs']} epochs, "
        f"{summary['pretrain_seconds']:.0f} s, "
        f"{summary['images_per_second']:,.0f} images/s."
    )


if __name__ == "__main__":
    run(main)
