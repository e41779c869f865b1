"""Report of a run as one HTML page: caco report --workdir=...

It has the settings, training curves, evaluations, diagnostics of the features, a map of
held-out images, the entries of the bank, the pair weights and the augmented views, in
one file that needs no network.
"""

from caco_jax.programs.flags import parser_of
from caco_jax.report import write_report
from caco_jax.runs.buckets import size_bytes


def main() -> None:
    """Parses flags and runs."""
    flags = parser_of("report").parse_args()
    compare = [path for path in flags.compare.split(",") if path]
    out = write_report(flags.workdir, flags.out or None, compare=compare)
    print(f"{out}: {size_bytes(out) / 1e6:.1f} MB; open it in a browser")
