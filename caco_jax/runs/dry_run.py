"""The dry run: checks data, memory, time and disk without training or writing."""

import itertools
import math
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Collection
from typing import Any

import jax

from caco_jax.runs import buckets
from caco_jax.runs.cautions import cautions
from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.fit import require_same_images
from caco_jax.runs.machine import device_bytes
from caco_jax.runs.opening import data_notes
from caco_jax.runs.pretraining import Pretraining
from caco_jax.runs.workdir import Workdir, cannot_write
from caco_jax.schema import ConfigError, UserError
from caco_jax.training.feeds import open_feeds
from caco_jax.training.loop import memory_bytes

_TIMED_STEPS = 3  # at least
_TIMED_SECONDS = 3.0


def dry_run(
    run: Pretraining,
    workdir: str | os.PathLike,
    *,
    force_new: bool = False,
    changes: Collection[str] = (),
) -> dict[str, Any]:
    """Checks a run: its first examples, memory, time and directory.

    It compiles the program that `fit` would run, which may take minutes, and times some
    of its steps.

    Args:
        run: the run.
        workdir: its directory.
        force_new: as of `fit`.
        changes: as of `fit`.

    Returns:
        "images", "data" as lines for people, "steps_per_epoch", "steps" of the run,
        "step" it would start from, "step_bytes" on each device while a step runs,
        "device_bytes" there are (or None), "checkpoint_bytes", "most_checkpoints" at
        once, "free_bytes" on the disk (None: of a bucket), "step_seconds" of some real
        steps, "seconds" of all that are to be done, start-up included and evaluation
        not, "cautions" as `fit` warns of them.

    Raises:
        UserError: the run cannot be.
    """
    files = Workdir(workdir, complete=run.description.complete)
    files.require_plain_name()
    if force_new:
        files.require_movable()
    resumes = files.has_run() and not force_new
    if resumes:
        files.compare(run.description.values, changes)
        require_same_images(run, Checkpoints(files), changes)
    first = (resumes and Checkpoints(files).latest_step()) or 0
    found = {
        "images": run.data.train_count,
        "data": data_notes(run.data),
        "steps_per_epoch": run.steps_per_epoch,
        "steps": run.total_steps,
        "step": first,
        **_disk(run, files.path),
        "cautions": cautions(run),
    }
    with jax.set_mesh(run.mesh):
        _read_a_batch(run)
        step_bytes, a_step = _measure(run)
    to_do = run.total_steps - first + (run.start_up_steps if first == 0 else 0)
    return found | {
        "step_bytes": step_bytes,
        "device_bytes": device_bytes(run.mesh.devices.flat[0]),
        "step_seconds": a_step,
        "seconds": a_step * to_do,
    }


def _read_a_batch(run: Pretraining) -> None:
    """Reads a first batch, to find unreadable data."""
    with run.feeds()(run.keys.order, steps=run.steps_per_epoch, epochs=1) as feed:
        for _, inputs in itertools.islice(feed.epochs, 1):
            next(inputs)


def _disk(run: Pretraining, path: pathlib.Path) -> dict[str, int | None]:
    """Disk space that checkpoints need and that is free in the run's directory."""
    state = jax.eval_shape(run.initial_state)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    # The newest ones, the best one, and one more of each while it is written.
    most = run.training.keep_checkpoints + 3
    needed: dict[str, int | None] = {"checkpoint_bytes": size, "most_checkpoints": most}
    if buckets.in_bucket(path):
        return needed | {"free_bytes": None}
    folder = next(place for place in (path, *path.parents) if os.path.exists(place))
    try:
        # The file has no name, if the system supports that.
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cannot_write(path, error) from None
    if free < size * most:
        raise UserError(
            f"--workdir: expected {size * most:,} free bytes for {most} checkpoints, "
            f"got {free:,} in {folder}; free some, or lower training.keep_checkpoints"
        )
    return needed | {"free_bytes": free}


def _measure(run: Pretraining) -> tuple[int, float]:
    """Memory of a step on each device in bytes, and its time in seconds."""
    limit, needed = device_bytes(run.mesh.devices.flat[0]), None
    try:
        compiled = run.lower_step().compile()
        needed = memory_bytes(compiled)["total"]
        if limit is None or needed <= limit:
            return needed, _seconds_a_step(run, compiled)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
    said = "more" if needed is None else f"{needed:,} bytes"
    raise ConfigError(
        f"batch_size: expected a step that fits into the {limit} bytes "
        f"of a device, this one needs {said}; use a smaller batch, "
        "microbatches or remat"
    )


def _seconds_a_step(run: Pretraining, step: jax.stages.Compiled) -> float:
    """The time of a step on real batches, reading included.

    Batches that were prefetched before are used first: several steps are timed, if they
    are fast. With many processes all have to time the same number.
    """
    feeds = open_feeds(
        run.data,
        run.views,
        run.mesh,
        batch_size=run.training.batch_size,
        steps_per_dispatch=1,
    )
    state = run.place(run.initial_state())
    of_phase = {"steps": run.steps_per_epoch, "epochs": run.training.epochs}
    alone = jax.process_count() == 1
    times: list[float] = []
    with feeds(run.keys.order, **of_phase) as feed:
        for chosen in itertools.chain.from_iterable(part for _, part in feed.epochs):
            state, metrics = step(state, feed.fixed, chosen)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter())
            if len(times) > _TIMED_STEPS and (
                not alone or times[-1] - times[0] > _TIMED_SECONDS
            ):
                break
    # The first step is not counted: it waits for the first batch.
    return (times[-1] - times[0]) / (len(times) - 1) if times[1:] else math.nan
