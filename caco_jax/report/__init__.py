"""One HTML page about a run, to open from disk: gathered, then rendered."""

from caco_jax.report.write import write_report

__all__ = ["write_report"]
