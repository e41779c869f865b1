"""A run as one page for a browser: python -m experiments.report --workdir=...

Settings, curves, evaluations, the health of the features, a map of held-out images,
what each entry of the bank does, the weights of pairs, and the views as the encoder saw
them: one HTML file that needs no network.
"""

import pathlib

from caco_jax.programs.flags import parser_of
from caco_jax.report.collect import collect
from caco_jax.report.page import render
from caco_jax.runs.workdir import write_whole
from caco_jax.schema import UserError


def main() -> None:
    """Parses flags and runs."""
    flags = parser_of("report").parse_args()
    out = pathlib.Path(flags.out or pathlib.Path(flags.workdir) / "report.html")
    if flags.out and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise UserError(f"--out: want a file in a directory that exists, got {out}")
    page = render(collect(flags.workdir, [p for p in flags.compare.split(",") if p]))
    try:
        write_whole(out, page)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror}") from None
    print(f"{out}: {len(page.encode()) / 1e6:.1f} MB; open it in a browser")
