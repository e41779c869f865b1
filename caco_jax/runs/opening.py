"""The first lines of a run: its parts, sizes, directory, and how to stop it."""

import logging
import math
from typing import Any

import jax

from caco_jax.data.dataset import Dataset
from caco_jax.runs.cautions import cautions
from caco_jax.runs.pretraining import Pretraining
from caco_jax.runs.workdir import Workdir

logger = logging.getLogger("caco_jax")


def announce(run: Pretraining, files: Workdir) -> None:
    """Logs what a run is, and warnings about settings.

    Args:
        run: the run.
        files: its directory.
    """
    for line in opening_lines(run, files):
        logger.info("%s", line)
    for line in cautions(run):
        logger.warning("%s", line)


def opening_lines(run: Pretraining, files: Workdir) -> list[str]:
    """Lines that a run prints before its first step: method, encoder, data, device.

    Args:
        run: the run.
        files: its directory.
    """
    state = jax.eval_shape(run.initial_state)
    device = run.mesh.devices.flat[0]
    return [
        run.method.description,
        f"{run.encoder.name} with {_numbers(state.players['encoder']):,} "
        f"parameters, on {run.mesh.size} x {device.device_kind} ({device.platform})",
        f"{run.data.name}: {run.data.train_count:,} images in batches of "
        f"{run.training.batch_size:,}, {run.steps_per_epoch:,} steps an "
        f"epoch, {run.training.epochs:,} epochs",
        *data_notes(run.data),
        f"the state needs {_bytes_a_device(run, state) / 1e6:,.1f} MB on each device; "
        "--dry_run prints the memory of a step",
        f"all is kept in {files.path}; Ctrl-C saves and exits; rerun the same command "
        "to resume",
    ]


def data_notes(data: Dataset) -> tuple[str, ...]:
    """Notes on how the source of a data set was interpreted, if it has any."""
    return getattr(data, "notes", ())


def _numbers(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _bytes_a_device(run: Pretraining, state: Any) -> int:
    sizes = jax.tree.map(
        lambda leaf, sharding: (
            math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        ),
        state,
        run.shardings(state),
    )
    return sum(jax.tree.leaves(sizes))
