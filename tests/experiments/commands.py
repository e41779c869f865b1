"""Commands in the tests' own process, and the runs that they are given."""

import contextlib
import io
import pathlib
import sys
from unittest import mock

from caco_jax.config.build import build_run
from caco_jax.config.recipe import override
from caco_jax.config.sections import default_config, experiment_config
from caco_jax.programs import command
from caco_jax.runs.checkpoints import Checkpoints, Workdir

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "--config=configs/caco_digits.py"


# Of every method: 64 images to train on and 16 held out, four steps an epoch.
SMALL = [
    "encoder.backbone=tests.runs.tiny:Backbone",
    "encoder.width=4",
    "encoder.projector_widths=(8, 8, 4)",
    "data.source=fake:8x8x1x64",
    "training.batch_size=16",
    "training.epochs=2",
    "evaluation.knn_neighbours=3",
]
TINY = [
    f"--config.{assignment}"
    for assignment in (
        *SMALL,
        "method.bank_size=16",
        "method.start_up_epochs=0",
        "optimizer.warmup_epochs=0",
        "bank_optimizer.warmup_epochs=0",
    )
]


def call(main, *flags):
    """Runs a command: its status, what it printed, what on stderr."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(ROOT),
        mock.patch.object(sys, "argv", ["experiments", *map(str, flags)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            command.run(main)
        except SystemExit as left:
            status = left.code
    return status, out.getvalue(), err.getvalue()


def succeeded(result):
    """What a command printed that must do well."""
    status, out, err = result
    assert status == 0, err
    return out


def error_lines(result):
    """The messages of mistakes, without their prefix."""
    status, out, err = result
    assert (status, out) == (2, "")
    assert err.endswith("\n")
    lines = err.splitlines()
    assert all(line.startswith("error: ") for line in lines), err
    return [line.removeprefix("error: ") for line in lines]


def one_line(result):
    """The message of a mistake, without its prefix."""
    (line,) = error_lines(result)
    return line


def save_run(path, *changes, method="caco", **how):
    """Makes a directory of a run of a method that was saved as `save_state` says."""
    recipe = override(default_config(method), [*SMALL, *changes])
    return save_state(path, build_run(experiment_config(recipe)), **how)


def save_state(path, run, *, steps=(0,), change=lambda state: state):
    """Makes a directory of a run with these checkpoints of a new network."""
    files, state = Workdir(path), change(run.initial_state())
    files.claim(run.description.values)
    with Checkpoints(files) as checkpoints:
        for step in steps:
            checkpoints.save(state._replace(step=state.step + step))
    return path
