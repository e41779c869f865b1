"""Pretrains an encoder: caco pretrain --config=... --workdir=..."""

import argparse
import contextlib
from typing import Any

from caco_jax.config.build import build_run, in_config, pretrain
from caco_jax.config.sections import ExperimentConfig
from caco_jax.programs.command import give_up, read_config
from caco_jax.programs.flags import parser_of
from caco_jax.programs.parser import parse
from caco_jax.programs.reporting import make_reporter
from caco_jax.runs.distributed import (
    all_or_none,
    initialize,
    is_primary,
)
from caco_jax.runs.fit import Reporter
from caco_jax.runs.preemption import Stop
from caco_jax.schema import ConfigError, UserError


def main(stop: Stop | None = None) -> None:
    """Parses flags and runs.

    Args:
        stop: hears signals; None: nobody does.
    """
    stop = stop or Stop()
    flags, assignments = parse(parser_of("pretrain"))
    join_others(flags, stop)
    config = all_or_none(
        lambda: read_config(flags.config, assignments, conflicts=False)
    )
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
                config, flags.workdir, **how, stop=stop, reporter=reporter
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
    try:
        found = build_run(config).dry_run(workdir, **how)
    except ConfigError as error:
        raise error.renamed(in_config) from None
    there = found["device_bytes"]
    of = "" if there is None else f" of {there / 1e6:,.0f}"
    return "\n".join(
        [
            *found["data"],
            f"{found['images']:,} images, {found['steps_per_epoch']} steps an epoch",
            f"steps {found['step']} to {found['steps']} are to be done",
            f"{found['step_bytes'] / 1e6:,.1f} MB{of} on each device while a step runs",
            f"{found['checkpoint_bytes'] / 1e6:,.1f} MB a checkpoint, at most "
            f"{found['most_checkpoints']} at once, {found['free_bytes'] / 1e6:,.0f} MB "
            f"free for {workdir}",
            *(f"WARNING: {line}" for line in found["cautions"]),
            "Nothing was trained or written.",
        ]
    )


def join_others(flags: argparse.Namespace, stop: Stop) -> None:
    """Joins this process to those of its run, if there are any."""
    names = ("coordinator_address", "num_processes", "process_id")
    values = {name: getattr(flags, name) for name in names}
    if flags.distributed:
        initialize(
            **values, timeout_seconds=flags.initialization_timeout, give_up=give_up
        )
        stop.listen_again()  # JAX has taken SIGTERM
        return
    for name, value in values.items():
        if value is not None:
            raise UserError(f"--{name}: want --distributed with it")
