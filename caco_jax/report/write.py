"""Writes the report of a run to a file."""

import os
import pathlib
from collections.abc import Sequence

from caco_jax.report.collect import collect
from caco_jax.report.page import render
from caco_jax.runs.buckets import run_path
from caco_jax.runs.run import Run
from caco_jax.runs.workdir import write_whole
from caco_jax.schema import UserError


def write_report(
    run: Run | str | os.PathLike,
    path: str | os.PathLike | None = None,
    *,
    compare: Sequence[str | os.PathLike] = (),
) -> pathlib.Path:
    """Writes the report of a run as one HTML page.

    Of examples that are no images it has all but their pictures.

    Args:
        run: as `caco_jax.Pretraining.load` gives it; or the directory of a run that
            was made of a configuration.
        path: of the page; None: ``report.html`` in the run's directory.
        compare: directories of other runs, whose curves, figures and settings stand
            beside.

    Returns:
        Where the page is.

    Raises:
        UserError: a directory holds no run, the run has no checkpoint yet, or the page
            cannot be written.
    """
    folder = run.files.path if isinstance(run, Run) else run
    out = pathlib.Path(path) if path else run_path(folder) / "report.html"
    if path and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise UserError(f"--out: expected a file in a directory that exists, got {out}")
    page = render(collect(run, compare))
    try:
        write_whole(out, page)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror}") from None
    return out
