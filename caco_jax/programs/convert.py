"""Weights to and from PyTorch: caco convert import|export ...

import makes a run from a file of weights, for every other command. It reads state dicts
and checkpoints (.pth, .pt, .pth.tar, .ckpt, .bin; code in them is not run) and
.safetensors with the names of torchvision, or of timm for a ViT, after any prefix, as
MoCo, AdCo, CaCo, DINO, Lightning, lightly, solo-learn, timm and torch.compile write
them.

export writes the weights of a run to a file, in the format of its suffix: .pth, .pt,
.tar for PyTorch, .safetensors, or .pkl for detectron2.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from caco_jax.interop.workdirs import export_run, import_run
from caco_jax.programs.command import read_config
from caco_jax.programs.flags import parser_of
from caco_jax.programs.parser import parse


def main() -> None:
    """Parses flags and runs."""
    parser = parser_of("convert")
    flags, assignments = parse(parser)
    if flags.action == "import":
        report = import_run(
            flags.file,
            read_config(flags.config, assignments),
            flags.workdir,
            parts=flags.parts,
            encoder=flags.encoder,
            force=flags.force,
        )
        fresh = ", ".join(report["fresh"]) or "nothing"
        print(
            f"The run in {flags.workdir} has from {flags.file}: "
            f"{', '.join(report['imported'])}. As in a new run: {fresh}."
        )
        for line in _notes(report):
            print(line)
        return
    if assignments:
        parser.error(f"unrecognized arguments: --config.{assignments[0]}")
    report = export_run(flags.workdir, flags.file, parts=flags.parts, force=flags.force)
    print(
        f"{flags.file} has {', '.join(flags.parts)} of the run at step "
        f"{report['step']}: {report['arrays']} arrays, {report['numbers']:,} numbers."
    )


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    """Notes on how a file was interpreted, if it was ambiguous."""
    if report["prefix"]:
        yield f"Its encoder's names begin with {report['prefix']}"
    if others := ", ".join(one or "no prefix" for one in report["encoders"]):
        yield f"Other encoders in it: {others}; take one by --encoder=NAME"
    counts = {1: "1 array"}
    if left := ", ".join(
        f"{place} ({counts.get(count, f'{count} arrays')})"
        for place, count in report["left_out"].items()
    ):
        yield f"Left out: {left}"
