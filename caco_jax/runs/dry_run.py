"""Everything that can be found out about a run without training and without writing."""

import itertools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Collection
from typing import Any

import jax

from caco_jax.runs.cautions import cautions
from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.fit import require_same_images
from caco_jax.runs.opening import data_notes
from caco_jax.runs.pretraining import Pretraining
from caco_jax.runs.workdir import Workdir, cannot_write
from caco_jax.schema import ConfigError, UserError
from caco_jax.training.loop import memory_bytes


def dry_run(
    run: Pretraining,
    workdir: str | os.PathLike,
    *,
    force_new: bool = False,
    changes: Collection[str] = (),
) -> dict[str, Any]:
    """Checks a run: its first examples, its memory, and its directory.

    The program that `fit` would run is compiled, which may take minutes.

    Args:
        run: the run.
        workdir: its directory.
        force_new: as of `fit`.
        changes: as of `fit`.

    Returns:
        "images", "data" as lines for people, "steps_per_epoch", "steps" of the run,
        "step" it would start from, "step_bytes" on each device while a step runs,
        "device_bytes" there are (or None), "checkpoint_bytes", "most_checkpoints" at
        once, "free_bytes" on the disk, "cautions" as `fit` warns of them.

    Raises:
        UserError: the run cannot be.
    """
    files = Workdir(workdir, complete=run.description.complete)
    files.require_plain_name()
    resumes = files.has_run() and not force_new
    if resumes:
        files.compare(run.description.values, changes)
        require_same_images(run, Checkpoints(files), changes)
    found = {
        "images": run.data.train_count,
        "data": data_notes(run.data),
        "steps_per_epoch": run.steps_per_epoch,
        "steps": run.total_steps,
        "step": (resumes and Checkpoints(files).latest_step()) or 0,
        **_disk(run, files.path),
        "cautions": cautions(run),
    }
    with jax.set_mesh(run.mesh):
        _read_a_batch(run)
    return found | _memory(run)


def _read_a_batch(run: Pretraining) -> None:
    """Opens the feed: what cannot be read is found now."""
    with run.feeds()(run.keys.order, steps=run.steps_per_epoch, epochs=1) as feed:
        for _, inputs in itertools.islice(feed.epochs, 1):
            next(inputs)


def _disk(run: Pretraining, path: pathlib.Path) -> dict[str, int]:
    """What checkpoints need and what there is, where the run would write."""
    folder = next(place for place in (path, *path.parents) if os.path.exists(place))
    try:
        # It never has a name, where the system can do that.
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cannot_write(path, error) from None
    state = jax.eval_shape(run.initial_state)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    # The newest, the best, and while they are written one more of each.
    most = run.training.keep_checkpoints + 3
    if free < size * most:
        raise UserError(
            f"--workdir: want {size * most:,} bytes for {most} checkpoints, {folder} "
            f"has {free:,} free"
        )
    return {"checkpoint_bytes": size, "most_checkpoints": most, "free_bytes": free}


def _memory(run: Pretraining) -> dict[str, int | None]:
    """What a step needs and what there is, on each device."""
    limit = _device_bytes(run.mesh.devices.flat[0])
    try:
        needed = memory_bytes(run.lower_step().compile())["total"]
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = None
    if needed is None or (limit is not None and needed > limit):
        said = "more" if needed is None else f"{needed:,} bytes"
        raise ConfigError(
            f"batch_size: want a step that fits into the {limit} bytes "
            f"of a device, this one needs {said}; use a smaller batch, "
            "microbatches or remat"
        )
    return {"step_bytes": needed, "device_bytes": limit}


def _device_bytes(device: jax.Device) -> int | None:
    """The memory of a device, or None where it does not say."""
    if device.platform == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return memory // jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit")
