"""A run's directory: its configuration, its checkpoints, its metric lines."""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from caco_jax.config import flatten
from caco_jax.schema import UserError
from caco_jax.training.distributed import leads
from caco_jax.training.state import TrainState


class Workdir:
    """The files of one run, where of many processes the first one writes.

    ``config.json``, ``checkpoints/``, ``metrics.jsonl`` (a line an epoch, the same
    however often the run was interrupted) and ``summary.json``; ``bad_images.txt`` if
    there were any.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = pathlib.Path(path).absolute()
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.summary_file = self.path / "summary.json"
        self.bad_images_file = self.path / "bad_images.txt"
        self.checkpoints = self.path / "checkpoints"

    def claim(self, config: Mapping[str, Any], *, force_new: bool = False) -> None:
        """Makes the directory this configuration's, or finds that it already is.

        Args:
            config: the whole configuration, as nested mappings.
            force_new: move a run that is there aside, to ``<workdir>.old``, where it
                replaces what an earlier move left.

        Raises:
            UserError: the directory cannot be written, or belongs to another
                configuration; nothing in it was touched.
        """
        config = json.loads(json.dumps(config))
        if self._has_run() and not force_new:
            self._compare(config)
            return
        try:
            if self._has_run():
                aside = self.path.with_name(self.path.name + ".old")
                shutil.rmtree(aside, ignore_errors=True)
                self.path.rename(aside)
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.config_file, config)
        except OSError as error:
            raise UserError(
                f"--workdir: cannot write to {self.path}: {error.strerror}; name a "
                "directory that you may write to"
            ) from None

    def _has_run(self) -> bool:
        # Unlike Path.exists, False and no error where a directory may not be searched.
        return os.path.exists(self.config_file)

    def _compare(self, config: Mapping[str, Any]) -> None:
        theirs, ours = flatten(self.read_config()), flatten(config)
        differences = [
            f"{key} ({theirs.get(key)!r} there, {ours.get(key)!r} asked for)"
            for key in sorted(theirs.keys() | ours.keys())
            if theirs.get(key) != ours.get(key)
        ]
        if differences:
            raise UserError(
                f"--workdir: {self.path} holds a run of another configuration: "
                f"{', '.join(differences)}; use another workdir, or --force_new to "
                "start over (the old run is moved aside)"
            )

    def read_config(self) -> dict[str, Any]:
        """The configuration as saved.

        Raises:
            UserError: there is no run here.
        """
        if not self._has_run():
            raise UserError(
                f"--workdir: want the directory of a run, got {self.path}: it has no "
                "config.json; run experiments.pretrain first"
            )
        return json.loads(self.config_file.read_text())

    def read_metrics(self) -> list[dict[str, Any]]:
        """The metric lines so far, oldest first."""
        if not self.metrics_file.exists():
            return []
        return [json.loads(line) for line in self.metrics_file.read_text().splitlines()]

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds a line."""
        if leads():
            with self.metrics_file.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def rewind_metrics(self, step: int) -> None:
        """Drops the lines after a step, which a resumed run will write again."""
        if not leads():
            return
        kept = [row for row in self.read_metrics() if row["step"] <= step]
        write_whole(self.metrics_file, "".join(json.dumps(row) + "\n" for row in kept))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value to a file that is either whole or not there."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file that is either whole or not there."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)


class Checkpoints:
    """Saves and restores train states, by step; a context manager."""

    def __init__(self, workdir: Workdir, *, keep: int | None = None) -> None:
        # Synchronous: the state's buffers are donated to the next step at once.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(workdir.checkpoints, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """The newest saved step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Saves under the state's own step."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, like: TrainState) -> TrainState:
        """The newest state.

        Args:
            like: arrays or shapes with shardings, of the same structure.

        Raises:
            UserError: nothing was saved yet.
        """
        step = self.latest_step()
        if step is None:
            raise UserError(
                f"--workdir: no checkpoint in {self._manager.directory}; run "
                "experiments.pretrain to its end first"
            )
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))
