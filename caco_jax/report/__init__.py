"""The report of a run: collects its results and renders them as one HTML page."""

from caco_jax.report.write import write_report

__all__ = ["write_report"]
