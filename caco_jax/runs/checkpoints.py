"""Checkpoints of a run: saved asynchronously, verified by digests when read."""

import contextlib
import logging
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from caco_jax.runs import buckets
from caco_jax.runs.distributed import is_primary
from caco_jax.runs.manifest import find_damage, find_missing, write_manifest
from caco_jax.runs.progress import RunProgress
from caco_jax.runs.workdir import Workdir, write_json
from caco_jax.schema import UserError
from caco_jax.training.state import TrainState

__all__ = ["Checkpoints", "SaveError", "Workdir", "in_tree_of", "write_json"]

logger = logging.getLogger("caco_jax")


class SaveError(UserError):
    """A checkpoint could not be written; earlier ones are unchanged."""


class Checkpoints:
    """Saves and restores train states, by step; a context manager.

    Saving is asynchronous. A checkpoint exists once all its files and their digests are
    written.
    """

    def __init__(
        self, workdir: Workdir, *, keep: int | None = None, best: bool = False
    ) -> None:
        self.folder = workdir.best if best else workdir.checkpoints
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None
        self._begun: int | None = None
        self._whole: set[int] = set()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with contextlib.suppress(*[SaveError] * (kind is not None)):
            self.finish()
        if self._manager is not None:
            self._manager.close()

    def steps(self) -> list[int]:
        """The saved steps, including damaged ones, oldest first."""
        if not self.folder.is_dir():
            return []
        names = (entry.name for entry in self.folder.iterdir() if _is_written(entry))
        return sorted(int(name) for name in names if name.isdecimal())

    def damage(self, step: int) -> str | None:
        """The damage of a saved step, or None; the first process checks."""
        folder = self.folder / str(step)
        if step in self._whole or not is_primary() or _is_old(folder):
            return None
        damage = find_damage(folder) or find_missing(folder)
        if damage is None:
            self._whole.add(step)
        return damage

    def latest_step(self) -> int | None:
        """The newest saved step whose files match their digests, or None."""
        steps = reversed(self.steps())
        return next((step for step in steps if self.damage(step) is None), None)

    def require_some(self) -> None:
        """Raises UserError if no checkpoint was completed."""
        if not self.steps():
            raise UserError(
                f"--workdir: expected a run with a checkpoint, got "
                f"{self.folder.parent} without one; let caco pretrain run to its first "
                "checkpoint"
            )

    def require_whole(self) -> int:
        """The newest step that can be restored; UserError if there is none."""
        newest = self.latest_step()
        if newest is None:
            self.require_some()
            damages = [f"step {step}: {self.damage(step)}" for step in self.steps()]
            raise UserError(
                f"--workdir: expected an undamaged checkpoint in {self.folder}, got "
                f"none ({'; '.join(damages)}); put back a copy of one, or start over "
                "with caco pretrain --force_new (the old run is moved aside)"
            )
        return newest

    def save(self, state: TrainState, progress: RunProgress | None = None) -> None:
        """Starts to save the state under its step, unless that step is saved already.

        Waits for the previous save, and until the state may be donated.

        Args:
            state: the train state.
            progress: the progress at the same step; None for a run that has not
                started.

        Raises:
            SaveError: this save could not start, or the previous one failed.
        """
        self.finish()
        step = int(state.step)
        if step in self.steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(_apart, state)),
            record=ocp.args.JsonSave((progress or RunProgress()).as_json()),
        )
        with self._failing(step):
            manager = self._open()
            _check_space(self.folder, state)
            self._begun = step
            manager.save(step, args=items, force=True)

    def finish(self) -> bool:
        """Waits for the running save; whether there was one.

        Raises:
            SaveError: it could not be saved.
        """
        if self._manager is None or self._begun is None:
            return False
        with self._failing(self._begun):
            self._manager.wait_until_finished()
        self._begun = None
        return True

    def set_aside_damaged(self, place: pathlib.Path) -> None:
        """Moves the damaged steps that are newer than the newest whole one.

        Args:
            place: the folder to move them to.

        Raises:
            UserError: none is whole; nothing was moved.
        """
        newest = self.latest_step()
        after = -1 if newest is None else newest
        damages = {step: self.damage(step) for step in self.steps() if step > after}
        if damages:
            self.require_whole()
        for step, damage in damages.items():
            aside = place / f"{self.folder.name}-{step}"
            if not buckets.in_bucket(place):
                place.mkdir(exist_ok=True)
            buckets.move(self.folder / str(step), aside)
            logger.warning(
                "the checkpoint of step %d is damaged (%s) and was moved to %s; "
                "falling back to step %d",
                step,
                damage,
                aside,
                newest,
            )

    @contextlib.contextmanager
    def _failing(self, step: int) -> Iterator[None]:
        try:
            with buckets.as_os_error(self.folder):
                yield
        # TensorStore says "no space left" with a ValueError.
        except (OSError, ValueError, RuntimeError) as error:
            self._manager = self._begun = None
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise SaveError(
                f"--workdir: cannot save step {step} in {self.folder}: {reason}"
            ) from error

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            if not buckets.in_bucket(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            background = ocp.options.AsyncOptions(
                post_finalization_callback=self._before_it_counts,
                # A failure here is reported at once.
                create_directories_asynchronously=False,
            )
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                async_options=background,
                # The newest and the best are saved together: each has its own barrier.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    barrier_sync_key_prefix=self.folder.name
                ),
                cleanup_tmp_directories=True,
                lightweight_initialize=True,
            )
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        return self._manager

    def _before_it_counts(self) -> None:
        """Adds the digests after Orbax wrote all files, before it renames the folder.

        Raises:
            ValueError: what was written cannot be restored; it is not renamed.
        """
        if buckets.in_bucket(self.folder):
            unnamed = self.folder / str(self._begun)
        else:
            (unnamed,) = self.folder.glob(f"{self._begun}.orbax-checkpoint-tmp*")
        write_manifest(unnamed)
        missing = find_missing(unnamed)
        if missing is not None:
            raise ValueError(f"the written checkpoint cannot be restored: {missing}")

    def restore(self, like: TrainState, *, step: int | None = None) -> TrainState:
        """The state of a step.

        Args:
            like: arrays or shapes with shardings, of the same structure.
            step: the step; None: the newest undamaged one.

        Raises:
            UserError: the step was not saved, is damaged, or has other arrays.
        """
        folder = self.folder / str(self._whole_step(step))
        state = folder / ("default" if _is_old(folder) else "state")
        with ocp.StandardCheckpointer() as reader:
            # Orbax would start to read arrays that do not fit, and fail in the middle.
            if _shapes(_saved_tree(state)) != _shapes(like):
                raise UserError(
                    f"--workdir: expected {folder} to hold the arrays of this "
                    "configuration, got others: a size, an optimiser or what else the "
                    "state depends on cannot change within a run; use another workdir, "
                    "or --force_new to start over"
                )
            return reader.restore(state, like)

    def restore_arrays(self, *, step: int | None = None) -> dict[str, Any]:
        """The state of a step as nested dictionaries, on one device.

        Its structure need not be known.

        Args:
            step: as of `restore`.

        Raises:
            UserError: as of `restore`.
        """
        folder = self.folder / str(self._whole_step(step)) / "state"
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        with ocp.StandardCheckpointer() as reader:
            like = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=here
                ),
                _saved_tree(folder),
            )
            return reader.restore(folder, like)

    def _whole_step(self, step: int | None) -> int:
        """The given step or the newest; UserError if it is missing or damaged."""
        found = self.require_whole() if step is None else step
        if found not in self.steps():
            kept = ", ".join(map(str, self.steps())) or "none"
            raise UserError(
                f"--workdir: expected a step with a checkpoint in {self.folder} "
                f"({kept}), got {found}"
            )
        damage = self.damage(found)
        if damage is not None:
            raise UserError(
                f"--workdir: expected an undamaged checkpoint of step {found} in "
                f"{self.folder}, got a damaged one ({damage}); choose another step"
            )
        return found

    def read_progress(self) -> RunProgress | None:
        """The progress saved with the newest state; None if nothing was saved."""
        step = self.latest_step()
        if step is None:
            return None
        if _is_old(self.folder / str(step)):
            raise UserError(
                "--workdir: expected a run that this version can resume, got "
                f"{self.folder} of an earlier version; use --force_new"
            )
        # Not by a Checkpointer, which waits for all processes: the first one also reads
        # alone.
        with contextlib.closing(ocp.JsonCheckpointHandler()) as reader:
            return RunProgress.from_json(
                reader.restore(self.folder / str(step) / "record")
            )


def _check_space(folder: pathlib.Path, state: TrainState) -> None:
    """Raises OSError if the disk has too little space for the state."""
    if buckets.in_bucket(folder):
        return
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    free = shutil.disk_usage(folder).free
    if is_primary() and free < needed:
        raise OSError(f"expected {needed:,} bytes on the disk, {free:,} are free")


def _is_written(folder: pathlib.Path) -> bool:
    """Whether a step's folder is complete: on a disk it is renamed at the end."""
    return not buckets.in_bucket(folder) or (folder / buckets.COMMITTED).exists()


def _apart(leaf: jax.Array) -> jax.Array:
    """A copy of the array on the host; on a CPU the array itself would be returned."""
    on_cpu = (
        isinstance(leaf, jax.Array) and next(iter(leaf.devices())).platform == "cpu"
    )
    return jnp.copy(leaf) if on_cpu else leaf


def _saved_tree(folder: pathlib.Path) -> Any:
    """The saved arrays of a folder as nested dictionaries of shapes and dtypes."""
    # By the handler: a checkpointer looks for a file that an item of a step never has,
    # and warns about it.
    saved: Any = ocp.StandardCheckpointHandler().metadata(folder)
    return saved.tree


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    """Sorted shapes of all arrays, to compare trees of different containers."""
    return sorted(tuple(leaf.shape) for leaf in jax.tree.leaves(tree))


def in_tree_of(like: Any, saved: Mapping[str, Any]) -> Any:
    """Puts arrays of nested dictionaries into a tree of other containers, by path.

    Args:
        like: arrays or shapes in any containers: dictionaries, lists, modules of
            Equinox.
        saved: a tree as `Checkpoints.restore_arrays` returns it.

    Raises:
        KeyError: an array is missing or has another shape.
    """

    def find(path: tuple[Any, ...], leaf: Any) -> Any:
        node: Any = saved
        for key in path:
            name = jax.tree_util.keystr((key,), simple=True)
            node = node[name] if isinstance(node, Mapping) else node[int(name)]
        if getattr(node, "shape", None) != leaf.shape:
            raise KeyError(jax.tree_util.keystr(path))
        return node

    return jax.tree_util.tree_map_with_path(find, like)


def _is_old(folder: pathlib.Path) -> bool:
    """Whether a checkpoint is of an old version without progress and digests."""
    return (folder / "default").is_dir()
