"""Weights to and from PyTorch: caco convert import|export ...

import: a file of weights becomes a run that every other command accepts. It reads
torchvision's state dicts, the checkpoints of MoCo, AdCo and CaCo (.pth, .pt, .pth.tar;
nothing in them is run), and .safetensors.

export: a run becomes a file, by its ending: .pth, .pt, .tar for PyTorch, .safetensors,
or .pkl for detectron2.
"""

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
            force=flags.force,
        )
        fresh = ", ".join(report["fresh"]) or "nothing"
        print(
            f"The run in {flags.workdir} has from {flags.file}: "
            f"{', '.join(report['imported'])}. As in a new run: {fresh}."
        )
        return
    if assignments:
        parser.error(f"unrecognized arguments: --config.{assignments[0]}")
    report = export_run(flags.workdir, flags.file, parts=flags.parts, force=flags.force)
    print(
        f"{flags.file} has {', '.join(flags.parts)} of the run at step "
        f"{report['step']}: {report['arrays']} arrays, {report['numbers']:,} numbers."
    )
