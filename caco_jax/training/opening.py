"""The first lines of a run: what it is, how large, where it goes, how to stop it."""

import math
from typing import Any

import jax

from caco_jax.training.assemble import Experiment, initial_state
from caco_jax.training.inputs import train_count
from caco_jax.training.mesh import state_shardings
from caco_jax.training.workdir import Workdir


def opening_lines(experiment: Experiment, files: Workdir) -> list[str]:
    """What a person wants to know before the first step.

    Args:
        experiment: the run.
        files: its directory.
    """
    config, mesh = experiment.config, experiment.mesh
    state = jax.eval_shape(lambda: initial_state(experiment))
    device = mesh.devices.flat[0]
    count = train_count(experiment.images)
    return [
        experiment.method.description,
        f"{config.encoder.backbone} with {_numbers(state.players['encoder']):,} "
        f"parameters, on {mesh.size} x {device.device_kind} ({device.platform})",
        f"{experiment.images.name}: {count:,} images in batches of "
        f"{config.training.batch_size:,}, {experiment.steps_per_epoch:,} steps an "
        f"epoch, {config.training.epochs:,} epochs",
        f"the state takes {_bytes_a_device(experiment, state) / 1e6:,.1f} MB of each "
        "device; --dry_run says what a step takes",
        f"all is kept in {files.path}; Ctrl-C saves and ends, the same command goes on",
    ]


def _numbers(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _bytes_a_device(experiment: Experiment, state: Any) -> int:
    shardings = state_shardings(
        state,
        experiment.mesh,
        shard_encoder=experiment.config.training.shard_encoder,
    )
    sizes = jax.tree.map(
        lambda leaf, sharding: (
            math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        ),
        state,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))
