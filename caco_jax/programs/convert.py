"""Weights to and from PyTorch: python -m experiments.convert import|export ...

import: a file of weights becomes a run that every other command accepts. It reads
torchvision's state dicts, the checkpoints of MoCo, AdCo and CaCo (.pth, .pt, .pth.tar;
nothing in them is run), and .safetensors.

export: a run becomes a file, by its ending: .pth, .pt, .tar for PyTorch, .safetensors,
or .pkl for detectron2.
"""

import argparse

from caco_jax.interop.states import BACKBONE, PARTS, TWINS
from caco_jax.interop.workdirs import export_run, import_run
from caco_jax.programs.command import read_config
from caco_jax.programs.parser import Parser, parse


def main() -> None:
    """Parses flags and runs."""
    parser = _parser()
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


def _parser() -> Parser:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    into = actions.add_parser("import", help="a file of weights becomes a run")
    into.add_argument(
        "--config",
        required=True,
        help="a recipe: a name, or a Python file",
    )
    into.add_argument(
        "--parts",
        nargs="+",
        choices=[part for part in PARTS if part != TWINS],
        help="what is taken; all that the file has by default",
    )
    out = actions.add_parser("export", help="a run becomes a file of weights")
    out.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=[BACKBONE],
        help="what is written; twins: the adversarial branches of norms",
    )
    for action in (into, out):
        action.add_argument("--file", required=True, help="of weights")
        action.add_argument("--workdir", required=True, help="the run's directory")
        action.add_argument(
            "--force",
            action="store_true",
            help="replace the file; a run is moved to WORKDIR.old",
        )
    return parser
