"""Everything that can be found out about a run without training and without writing."""

import itertools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Collection
from typing import Any

import jax

from caco_jax.config import ExperimentConfig
from caco_jax.pod.compile import lower_step, memory_bytes
from caco_jax.schema import ConfigError, UserError
from caco_jax.training.assemble import Experiment, assemble, initial_state
from caco_jax.training.checkpoints import Checkpoints
from caco_jax.training.feeds import experiment_feeds
from caco_jax.training.inputs import train_count
from caco_jax.training.lock import cannot_write
from caco_jax.training.pretrain import config_values, require_same_images
from caco_jax.training.workdir import Workdir


def rehearse(
    config: ExperimentConfig,
    workdir: str | os.PathLike,
    *,
    force_new: bool = False,
    changes: Collection[str] = (),
) -> dict[str, Any]:
    """Checks a run: its configuration, its first images, memory, and its directory.

    The train step is compiled, which may take minutes.

    Args:
        config: the run.
        workdir: its directory.
        force_new: as of `pretrain`.
        changes: as of `pretrain`.

    Returns:
        "images", "steps_per_epoch", "steps" of the run, "step" it would start from,
        "step_bytes" on each device while a step runs, "device_bytes" there are (or
        None), "checkpoint_bytes", "most_checkpoints" at once, "free_bytes" on the disk.

    Raises:
        UserError: the run cannot be.
    """
    files = Workdir(workdir)
    experiment = assemble(config)
    resumes = files.has_run() and not force_new
    if resumes:
        files.compare(config_values(experiment), changes)
        require_same_images(experiment, Checkpoints(files), changes)
    found = {
        "images": train_count(experiment.images),
        "steps_per_epoch": experiment.steps_per_epoch,
        "steps": experiment.total_steps,
        "step": (resumes and Checkpoints(files).latest_step()) or 0,
        **_disk(experiment, files.path),
    }
    with jax.set_mesh(experiment.mesh):
        _read_a_batch(experiment)
    return found | _memory(experiment)


def _read_a_batch(experiment: Experiment) -> None:
    """Opens the feed: what cannot be read is found now."""
    open_feed = experiment_feeds(experiment)
    steps = experiment.steps_per_epoch
    with open_feed(experiment.keys.order, steps=steps, epochs=1) as feed:
        for _, inputs in itertools.islice(feed.epochs, 1):
            next(inputs)


def _disk(experiment: Experiment, path: pathlib.Path) -> dict[str, int]:
    """What checkpoints need and what there is, where the run would write."""
    folder = next(place for place in (path, *path.parents) if os.path.exists(place))
    try:
        # It never has a name, where the system can do that.
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cannot_write(path, error) from None
    state = jax.eval_shape(lambda: initial_state(experiment))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    # The newest, the best, and while they are written one more of each.
    most = experiment.config.training.keep_checkpoints + 3
    if free < size * most:
        raise UserError(
            f"--workdir: want {size * most:,} bytes for {most} checkpoints, {folder} "
            f"has {free:,} free"
        )
    return {"checkpoint_bytes": size, "most_checkpoints": most, "free_bytes": free}


def _memory(experiment: Experiment) -> dict[str, int | None]:
    """What a step needs and what there is, on each device."""
    limit = _device_bytes(experiment.mesh.devices.flat[0])
    try:
        needed = memory_bytes(lower_step(experiment).compile())["total"]
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = None
    if needed is None or (limit is not None and needed > limit):
        said = "more" if needed is None else f"{needed:,} bytes"
        raise ConfigError(
            f"config.training.batch_size: want a step that fits into the {limit} bytes "
            f"of a device, this one needs {said}; use a smaller batch, "
            "config.training.microbatches or config.encoder.remat"
        )
    return {"step_bytes": needed, "device_bytes": limit}


def _device_bytes(device: jax.Device) -> int | None:
    """The memory of a device, or None where it does not say."""
    if device.platform == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return memory // jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit")
