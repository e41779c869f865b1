"""Pretrains an encoder: caco pretrain --config=... --workdir=..."""

import argparse
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from caco_jax.config.build import build_run, in_config, pretrain
from caco_jax.config.photos import fit_recipe
from caco_jax.config.recipe import load_recipe, override, rules_of
from caco_jax.config.sections import ExperimentConfig, experiment_config
from caco_jax.data.dataset import Dataset
from caco_jax.programs.command import give_up
from caco_jax.programs.flags import parser_of
from caco_jax.programs.parser import parse
from caco_jax.programs.reporting import duration, make_reporter
from caco_jax.runs.distributed import (
    all_or_none,
    initialize,
    is_primary,
)
from caco_jax.runs.fit import Reporter
from caco_jax.runs.preemption import Stop
from caco_jax.runs.workdir import Workdir
from caco_jax.schema import ConfigError, UserError, flatten

logger = logging.getLogger("caco_jax")


def main(stop: Stop | None = None) -> None:
    """Parses flags and runs.

    Args:
        stop: hears signals; None: nobody does.
    """
    stop = stop or Stop()
    flags, assignments = parse(parser_of("pretrain"))
    join_others(flags, stop)
    config, data = all_or_none(lambda: read(flags, assignments))
    how: dict[str, Any] = {
        "force_new": flags.force_new,
        "changes": [key for key in flags.resume_with_changes.split(",") if key],
    }
    if flags.dry_run:
        said = describe(config, flags.workdir, how, data)
    else:
        reporter = make_reporter(flags) if is_primary() else Reporter()
        with contextlib.closing(reporter):
            summary = pretrain(
                config, flags.workdir, data, **how, stop=stop, reporter=reporter
            )
        said = (
            f"The run in {flags.workdir} is complete: {summary['epochs']} epochs, "
            f"{summary['pretrain_seconds']:.0f} s, "
            f"{summary['images_per_second']:,.0f} images/s."
        )
    if is_primary():
        print(said)


def read(
    flags: argparse.Namespace, assignments: Sequence[str]
) -> tuple[ExperimentConfig, Dataset | None]:
    """The configuration of the flags, and its data set if it had to be read.

    Raises:
        ConfigError: values that are not allowed; what does not fit together is found
            when the run is built.
    """
    if flags.source is not None:
        if any(word.startswith("data.source=") for word in assignments):
            raise ConfigError("--source: expected it or --config.data.source, got both")
        assignments = [f"data.source={flags.source!r}", *assignments]
    values, data = override(load_recipe(flags.config), assignments), None
    rules = rules_of(flags.config)
    if rules:
        files = Workdir(flags.workdir)
        goes_on = files.has_run() and not flags.force_new
        values, data, said = fit_recipe(
            values,
            rules,
            given=[word.partition("=")[0] for word in assignments],
            kept=flatten(files.read_config()) if goes_on else {},
        )
        for line in said:
            logger.info("%s", line)
    return experiment_config(values, conflicts=False), data


def describe(
    config: ExperimentConfig, workdir: str, how: dict[str, Any], data: Dataset | None
) -> str:
    """The findings of a dry run as text."""
    try:
        found = build_run(config, data=data).dry_run(workdir, **how)
    except ConfigError as error:
        raise error.renamed(in_config) from None
    there, room = found["device_bytes"], found["free_bytes"]
    of = "" if there is None else f" of {there / 1e6:,.0f}"
    return "\n".join(
        [
            *found["data"],
            f"{found['images']:,} images, {found['steps_per_epoch']} steps an epoch",
            f"steps {found['step']} to {found['steps']} are to be done",
            f"{found['step_bytes'] / 1e6:,.1f} MB{of} on each device while a step runs",
            *_time_of(found),
            f"{found['checkpoint_bytes'] / 1e6:,.1f} MB a checkpoint, at most "
            f"{found['most_checkpoints']} at once"
            + ("" if room is None else f", {room / 1e6:,.0f} MB free for {workdir}"),
            *(f"WARNING: {line}" for line in found["cautions"]),
            "Nothing was trained or written.",
        ]
    )


def _time_of(found: dict[str, Any]) -> list[str]:
    """The estimated time of the run, if it could be measured."""
    a_step, left = found["step_seconds"], found["seconds"]
    if not left > 0:  # the run is finished, or there was no second step to time
        return []
    return [
        f"about {duration(left)} on this machine, {a_step:.3g} s a step, start-up "
        "included; compiling, kNN and saving come on top"
    ]


def join_others(flags: argparse.Namespace, stop: Stop) -> None:
    """Connects this process to the other processes of its run, if there are any."""
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
            raise UserError(f"--{name}: expected --distributed, too, got {value} alone")
