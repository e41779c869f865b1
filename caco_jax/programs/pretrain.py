"""Pretrains an encoder: python -m experiments.pretrain --config=... --workdir=..."""

import argparse
import contextlib
from typing import Any

from caco_jax.config.sections import ExperimentConfig
from caco_jax.programs.command import read_config
from caco_jax.programs.parser import Parser, parse
from caco_jax.programs.reporting import add_reporting_flags, make_reporter
from caco_jax.schema import UserError
from caco_jax.runs import preemption
from caco_jax.runs.distributed import (
    TIMEOUT_SECONDS,
    initialize,
    is_primary,
    all_or_none,
)
from caco_jax.runs.dry_run import rehearse
from caco_jax.runs.fit import Reporter, pretrain


def main() -> None:
    """Parses flags and runs."""
    parser = Parser(
        description=__doc__,
        epilog="--config.SECTION.KEY=VALUE replaces a value of the recipe.",
    )
    parser.add_argument(
        "--config",
        required=True,
        help="a recipe: a name, or a Python file",
    )
    parser.add_argument("--workdir", required=True, help="the run's directory")
    parser.add_argument(
        "--force_new",
        action="store_true",
        help="start over; a run already there is moved to WORKDIR.old",
    )
    parser.add_argument(
        "--resume_with_changes",
        default="",
        metavar="KEY,KEY",
        help="go on with other values of these keys, such as training.epochs",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check the run, its images, memory and directory; train and write nothing",
    )
    add_reporting_flags(parser)
    add_distributed_flags(parser)
    flags, assignments = parse(parser)
    join_others(flags)
    config = all_or_none(lambda: read_config(flags.config, assignments))
    how: dict[str, Any] = {
        "force_new": flags.force_new,
        "changes": [key for key in flags.resume_with_changes.split(",") if key],
    }
    if flags.dry_run:
        said = describe(config, flags.workdir, how)
    else:
        reporter = make_reporter(flags) if is_primary() else Reporter()
        with contextlib.closing(reporter):
            summary = pretrain(
                config, flags.workdir, **how, stop=preemption.STOP, reporter=reporter
            )
        said = (
            f"The run in {flags.workdir} is complete: {summary['epochs']} epochs, "
            f"{summary['pretrain_seconds']:.0f} s, "
            f"{summary['images_per_second']:,.0f} images/s."
        )
    if is_primary():
        print(said)


def describe(config: ExperimentConfig, workdir: str, how: dict[str, Any]) -> str:
    """What a dry run found, as text."""
    found = rehearse(config, workdir, **how)
    there = found["device_bytes"]
    of = "" if there is None else f" of {there / 1e6:,.0f}"
    return "\n".join(
        [
            f"{found['images']:,} images, {found['steps_per_epoch']} steps an epoch",
            f"steps {found['step']} to {found['steps']} are to be done",
            f"{found['step_bytes'] / 1e6:,.1f} MB{of} on each device while a step runs",
            f"{found['checkpoint_bytes'] / 1e6:,.1f} MB a checkpoint, at most "
            f"{found['most_checkpoints']} at once, {found['free_bytes'] / 1e6:,.0f} MB "
            f"free for {workdir}",
            "Nothing was trained or written.",
        ]
    )


def add_distributed_flags(parser: Parser) -> None:
    """Flags of a run of many processes."""
    group = parser.add_argument_group("a run of many processes")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="join the other processes of this run; SLURM, GKE and TPU say the rest",
    )
    group.add_argument("--coordinator_address", help="HOST:PORT of process 0")
    group.add_argument("--num_processes", type=int, help="of the whole run")
    group.add_argument("--process_id", type=int, help="of this one, from 0")
    group.add_argument(
        "--initialization_timeout",
        type=int,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="how long processes wait for each other (default: %(default)s)",
    )


def join_others(flags: argparse.Namespace) -> None:
    """Joins this process to those of its run, if there are any."""
    names = ("coordinator_address", "num_processes", "process_id")
    values = {name: getattr(flags, name) for name in names}
    if flags.distributed:
        initialize(**values, timeout_seconds=flags.initialization_timeout)
        preemption.STOP.listen_again()  # JAX has taken SIGTERM
        return
    for name, value in values.items():
        if value is not None:
            raise UserError(f"--{name}: want --distributed with it")
