"""A run as one page for a browser: caco report --workdir=...

Settings, curves, evaluations, the health of the features, a map of held-out images,
what each entry of the bank does, the weights of pairs, and the views as the encoder saw
them: one HTML file that needs no network.
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
