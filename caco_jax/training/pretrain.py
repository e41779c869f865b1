"""A pretraining run from its first step or its last checkpoint to its end."""

import contextlib
import dataclasses
import json
import logging
import pathlib
from collections.abc import Collection
from typing import Any, NoReturn

import jax

from caco_jax.config import ExperimentConfig, flatten
from caco_jax.data.pipeline import BadImagesError
from caco_jax.schema import UserError
from caco_jax.training import loop
from caco_jax.training.alarms import NonFiniteError
from caco_jax.training.assemble import Experiment, assemble
from caco_jax.training.checkpoints import Checkpoints
from caco_jax.training.distributed import (
    any_process,
    gather_texts,
    leads,
    require_same,
    together,
)
from caco_jax.training.feeds import OpenFeed, count_bad, experiment_feeds
from caco_jax.training.inputs import image_digest
from caco_jax.training.lock import cannot_write
from caco_jax.training.monitor import Monitor
from caco_jax.training.opening import opening_lines
from caco_jax.training.preemption import Stop, Stopped
from caco_jax.training.record import Record, peak_memory_bytes, provenance
from caco_jax.training.runs import restore_state
from caco_jax.training.saving import Keeper, write_summary
from caco_jax.training.state import TrainState
from caco_jax.training.workdir import Workdir, write_whole

__all__ = ["config_values", "peak_memory_bytes", "pretrain"]

logger = logging.getLogger("caco_jax")


class Reporter:
    """Who follows a run. This one does nothing: override what matters."""

    def watch(self, phase: str, step: int, metrics: loop.Metrics) -> None:
        """Called after every dispatch.

        Args:
            phase: "step" or "start-up step".
            step: how many are done.
            metrics: of the last of them, [S] each.
        """

    def epoch_done(
        self, epoch: int, epochs: int, row: dict[str, Any], images_per_second: float
    ) -> None:
        """Called after every epoch.

        Args:
            epoch: its number, from 1.
            epochs: of the whole run.
            row: the line of ``metrics.jsonl``.
            images_per_second: so far.
        """

    def close(self) -> None:
        """Called by whoever made it, after the run's end or interruption."""


def config_values(experiment: Experiment) -> dict[str, Any]:
    """The configuration as plain values, as it is saved."""
    values = dataclasses.asdict(experiment.config)
    values["method"] = {"name": experiment.method.name, **values["method"]}
    return values


def pretrain(
    config: ExperimentConfig,
    workdir: str | pathlib.Path,
    *,
    force_new: bool = False,
    changes: Collection[str] = (),
    stop: Stop | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Trains until the configured number of epochs is done, resuming what is there.

    Args:
        config: the run.
        workdir: its directory.
        force_new: move a run that is already there aside and start over.
        changes: dotted keys of the configuration that may differ from the run's that
            is there.
        stop: tells when to end early; None: never.
        reporter: who follows the run.

    Returns:
        The summary, as in ``summary.json``: "epochs", "steps", "pretrain_seconds",
        "images_per_second", "peak_memory_bytes", "bad_images" that were skipped.

    Raises:
        UserError: the configuration or the directory does not fit, or the disk fails.
        NonFiniteError: a metric or a player became NaN or infinite.
        Stopped: it was told to end; it has saved.
    """
    files = Workdir(workdir)
    require_same(
        {
            **flatten(dataclasses.asdict(config)),
            "method": type(config.method).__name__,
            "--workdir": str(files.path),
            "--force_new": force_new,
            "--resume_with_changes": sorted(changes),
            "the version of JAX": jax.__version__,
        }
    )
    experiment = together(lambda: assemble(config))
    values = config_values(experiment)
    training = config.training
    newest = Checkpoints(files, keep=training.keep_checkpoints)
    claim = files.claimed(
        values,
        force_new=force_new,
        changes=changes,
        check=lambda: require_same_images(experiment, newest, changes),
    )
    best = Checkpoints(files, keep=1, best=True)

    def take() -> None:
        held.enter_context(claim)
        newest.set_aside_damaged(files.damaged)

    with contextlib.ExitStack() as held:
        together(lambda: take() if leads() else None)
        for context in (jax.set_mesh(experiment.mesh), newest, best):
            held.enter_context(context)
        keeper = Keeper(files, newest, best, attempts=training.save_attempts)
        run = _Run(
            experiment, files, newest, keeper, stop or Stop(), reporter or Reporter()
        )
        return run.to_the_end()


def require_same_images(
    experiment: Experiment, checkpoints: Checkpoints, changes: Collection[str]
) -> None:
    """Checks that the newest checkpoint can be gone on with, if there is one.

    Args:
        experiment: what would go on.
        checkpoints: of the run that is there.
        changes: keys of the configuration that may differ.

    Raises:
        UserError: it trained on other images.
    """
    record = checkpoints.read_record()
    if record is not None:
        record.require_same_images(
            epoch_steps=experiment.steps_per_epoch,
            image_digest=image_digest(experiment.images),
            changes=changes,
        )


class _Run:
    """The side effects around the loop: metrics, monitor, alarms, checkpoints."""

    def __init__(
        self,
        experiment: Experiment,
        files: Workdir,
        checkpoints: Checkpoints,
        keeper: Keeper,
        stop: Stop,
        reporter: Reporter,
    ) -> None:
        self.experiment, self.files, self.checkpoints = experiment, files, checkpoints
        self.keeper, self.stop = keeper, stop
        self.reporter = reporter
        self.bad = count_bad(experiment)
        self.record = self._record_so_far()
        # Of many processes none may leave an evaluation that the others go on with.
        poll = self.stop.check if jax.process_count() == 1 else lambda: None
        self.monitor = Monitor(experiment, self.bad, self.record.rows, poll)

    def to_the_end(self) -> dict[str, Any]:
        try:
            write_summary(self.files, self.record)
            self.files.write_metrics(self.record.rows)
        except OSError as error:
            raise cannot_write(self.files.path, error) from None
        try:
            if len(self.record.rows) < self.experiment.config.training.epochs:
                self._train()
        except BadImagesError as error:
            raise UserError(
                f"{error}; all are listed in {self._bad_images_file()}"
            ) from None
        except NonFiniteError as error:
            error.kept_step = self.checkpoints.latest_step()
            raise
        finally:
            if self.bad:
                lines = "".join(f"{line}\n" for line in self.bad.listing())
                with contextlib.suppress(OSError):
                    write_whole(self._bad_images_file(), lines)
        return self.record.summary()

    def _bad_images_file(self) -> pathlib.Path:
        """Of this process: each reads other images."""
        file = self.files.bad_images_file
        return file if leads() else file.with_suffix(f".{jax.process_index()}.txt")

    def _record_so_far(self) -> Record:
        """The newest checkpoint's record, with the line that it was waiting for."""
        record = self.checkpoints.read_record() or Record()
        record.epoch_steps = self.experiment.steps_per_epoch
        record.image_digest = image_digest(self.experiment.images)
        record.provenance = provenance(config_values(self.experiment))
        self.bad.reasons.update(record.bad_images)
        # Only the first process's file counts, which it is about to rewrite.
        (first, *_) = gather_texts(json.dumps(self.files.read_metrics()))
        lines = json.loads(first)[len(record.rows) :]
        if record.is_waiting() and lines:
            record.finish_epoch(lines[0])
        return record

    def _train(self) -> None:
        experiment, record = self.experiment, self.record
        for line in opening_lines(experiment, self.files):
            logger.info("%s", line)
        open_feed = experiment_feeds(experiment, self.bad)
        state = self._first_state(open_feed)
        if record.is_waiting():
            self._end_epoch(state)
        if len(record.rows) == experiment.config.training.epochs:
            return
        stop = any_process(self.stop.requested, experiment.mesh)
        done = loop.train_epochs(
            experiment,
            state,
            open_feed,
            record.progress,
            stop=stop,
            watch=self.reporter.watch,
        )
        for _, state, metrics in done:
            record.add(metrics)
            if not record.is_waiting():
                self._leave(state)
            self._end_epoch(state)

    def _first_state(self, open_feed: OpenFeed) -> TrainState:
        if self.checkpoints.latest_step() is None:
            if self.experiment.method.start_up is not None:
                logger.info("start-up: filling the bank")
            return loop.start_up(
                self.experiment,
                open_feed,
                self.record.progress,
                watch=self.reporter.watch,
            )
        state = restore_state(self.experiment, self.checkpoints)
        logger.info("continuing from step %d", int(state.step))
        return state

    def _end_epoch(self, state: TrainState) -> None:
        record, config = self.record, self.experiment.config.training
        epoch = len(record.rows) + 1
        try:
            row = self.monitor.row(epoch, state, record.begun)
        except Stopped:
            self._leave(state)
        record.finish_epoch(row)
        self.keeper.write_line(record)
        speed = record.progress.images_per_second()
        self.reporter.epoch_done(epoch, config.epochs, row, speed)
        record.note_process(self.bad)
        due = epoch % config.checkpoint_every_epochs == 0
        self.keeper.epoch_done(state, record, due=due)
        if epoch == config.epochs:
            self.keeper.save_now(state, record)

    def _leave(self, state: TrainState) -> NoReturn:
        self.record.note_process(self.bad)
        self.keeper.save_now(state, self.record)
        raise Stopped(
            f"saved at step {int(state.step)}; the same command goes on from there"
        ) from None
