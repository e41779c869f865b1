"""Compiles a recipe's training step for a TPU slice, without a TPU: caco compile.

caco compile --config=... --topology=v5e:4x4
caco compile --config=... --sweep_topologies=v5e:4x4,v5e:8x8
"""

import argparse
import dataclasses
import pathlib

from caco_jax.config.sections import ExperimentConfig
from caco_jax.pod.report import Report, as_text, curve_text, make_report
from caco_jax.pod.topology import open_slice
from caco_jax.programs.command import aside, print_json, read_config
from caco_jax.programs.flags import parser_of
from caco_jax.programs.parser import parse
from caco_jax.runs.checkpoints import write_json
from caco_jax.schema import UserError


def main() -> None:
    """Parses flags, compiles, prints and saves."""
    flags, assignments = parse(parser_of("compile_for_pod"))
    with aside(flags):
        report = compile_report(flags, assignments)
        out = pathlib.Path(flags.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, report)
        print(f"saved in {out}")
    print_json(flags, report)


def compile_report(flags: argparse.Namespace, assignments: list[str]) -> Report:
    """The report of one slice or several, printed as text, too."""
    config = read_config(flags.config, assignments)
    source = {"config": flags.config, "changes": assignments}
    if flags.topology:
        if flags.scale_batch:
            raise UserError(
                "--scale_batch: expected --sweep_topologies, got --topology"
            )
        report = source | make_report(
            config, open_slice(flags.topology), quick=flags.quick
        )
        print(as_text(report))
        return report
    reports = sweep(
        config,
        flags.sweep_topologies.split(","),
        scale_batch=flags.scale_batch,
        quick=flags.quick,
    )
    print(curve_text(reports))
    return source | {"scale_batch": flags.scale_batch, "curve": reports}


def sweep(
    config: ExperimentConfig, names: list[str], *, scale_batch: bool, quick: bool
) -> list[Report]:
    """A report for each TPU slice; all names are checked before anything compiles."""
    slices = [open_slice(name, flag="--sweep_topologies") for name in names]
    reports = []
    for where in slices:
        batch_size = config.training.batch_size
        if scale_batch:
            batch_size = batch_size * len(where.devices) // len(slices[0].devices)
        training = dataclasses.replace(config.training, batch_size=batch_size)
        here = dataclasses.replace(config, training=training)
        reports.append(make_report(here, where, quick=quick))
        print(as_text(reports[-1]), end="\n\n", flush=True)
    return reports
