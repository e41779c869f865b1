"""Trains a run to its end, from the first step or from its last checkpoint."""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Callable, Collection
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from caco_jax.data.pipeline import BadImagesError
from caco_jax.data.records import SourceGoneError, StreamError
from caco_jax.methods.method import StartUp
from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.distributed import (
    all_or_none,
    any_process,
    gather_texts,
    is_primary,
    require_same,
)
from caco_jax.runs.monitor import Monitor
from caco_jax.runs.opening import announce
from caco_jax.runs.preemption import Stop, Stopped
from caco_jax.runs.pretraining import Pretraining
from caco_jax.runs.progress import RunProgress, provenance
from caco_jax.runs.run import restore_state
from caco_jax.runs.saving import CheckpointPolicy, write_summary
from caco_jax.runs.workdir import Workdir, cannot_write, write_whole
from caco_jax.schema import UserError, flatten
from caco_jax.training.feeds import OpenFeed, count_bad
from caco_jax.training.finite_check import NonFiniteError
from caco_jax.training.loop import (
    EpochsDone,
    Metrics,
    Throughput,
    WatchFn,
    hand_over,
    run_phase,
)
from caco_jax.training.state import TrainState

logger = logging.getLogger("caco_jax")


class Reporter:
    """Base class of reporters of a run. Its methods do nothing: override them."""

    def phase_begun(self, phase: str, done: int, steps: int) -> None:
        """Called before a phase's program is compiled.

        Args:
            phase: "step" or "start-up step".
            done: steps of the phase that are done.
            steps: steps of the whole phase.
        """

    def watch(self, phase: str, step: int, metrics: Metrics) -> None:
        """Called after every dispatch.

        Args:
            phase: "step" or "start-up step".
            step: number of steps done.
            metrics: of the newest steps, [S] each.
        """

    def epoch_done(
        self, epoch: int, epochs: int, row: dict[str, Any], images_per_second: float
    ) -> None:
        """Called after every epoch.

        Args:
            epoch: its number, from 1.
            epochs: number of epochs of the run.
            row: the line of ``metrics.jsonl``.
            images_per_second: mean over the run so far.
        """

    def close(self) -> None:
        """Called by the owner of the reporter when the run has ended or was stopped."""


def fit(
    run: Pretraining,
    workdir: str | os.PathLike,
    *,
    force_new: bool = False,
    changes: Collection[str] = (),
    stop: Stop | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Trains for the number of epochs; resumes a run that exists in the directory.

    Args:
        run: the run.
        workdir: its directory.
        force_new: whether to start over; an existing run is moved aside.
        changes: dotted keys of the description that may differ from those of the
            existing run.
        stop: whether to end early; None: never.
        reporter: gets the progress of the run.

    Returns:
        The summary, as in ``summary.json``: "epochs", "steps", "pretrain_seconds",
        "images_per_second", "peak_memory_bytes", "bad_images" that were skipped, and
        the "machine" that ended it.

    Raises:
        UserError: the run and the directory do not fit, or the disk fails.
        NonFiniteError: a metric or a player became NaN or infinite.
        Stopped: `stop` asked for it; a checkpoint is saved.
    """
    files = Workdir(workdir, complete=run.description.complete)
    require_same(
        {
            **flatten(dict(run.description.values)),
            "method": run.method.name,
            "--workdir": str(files.path),
            "--force_new": force_new,
            "--resume_with_changes": sorted(changes),
            "the version of JAX": jax.__version__,
        }
    )
    newest = Checkpoints(files, keep=run.training.keep_checkpoints)
    claim = files.claimed(
        run.description.values,
        force_new=force_new,
        changes=changes,
        check=lambda: require_same_images(run, newest, changes),
    )
    best = Checkpoints(files, keep=1, best=True)

    def take() -> None:
        held.enter_context(claim)
        newest.set_aside_damaged(files.damaged)

    with contextlib.ExitStack() as held:
        all_or_none(lambda: take() if is_primary() else None)
        for context in (jax.set_mesh(run.mesh), newest, best):
            held.enter_context(context)
        policy = CheckpointPolicy(
            files, newest, best, attempts=run.training.save_attempts
        )
        progress = _Fit(
            run, files, newest, policy, stop or Stop(), reporter or Reporter()
        )
        return progress.to_the_end()


def require_same_images(
    run: Pretraining, checkpoints: Checkpoints, changes: Collection[str]
) -> None:
    """Checks that the newest checkpoint, if any, was trained on the same images.

    Args:
        run: the run to resume.
        checkpoints: of the existing run.
        changes: keys of the description that may differ.

    Raises:
        UserError: it trained on other images.
    """
    progress = checkpoints.read_progress()
    if progress is not None:
        progress.require_same_images(
            epoch_steps=run.steps_per_epoch,
            image_digest=run.data.digest(),
            changes=changes,
        )


class _Fit:
    """Side effects of training: metrics, kNN monitor, alarms, checkpoints."""

    def __init__(
        self,
        run: Pretraining,
        files: Workdir,
        checkpoints: Checkpoints,
        policy: CheckpointPolicy,
        stop: Stop,
        reporter: Reporter,
    ) -> None:
        self.run, self.files, self.checkpoints = run, files, checkpoints
        self.policy, self.stop = policy, stop
        self.reporter = reporter
        self.bad = count_bad(run.data)
        self.progress = self._progress_so_far()
        # With many processes none may leave an evaluation that the others continue.
        poll = self.stop.check if jax.process_count() == 1 else lambda: None
        self.monitor = Monitor(run, self.bad, self.progress.rows, poll)

    def to_the_end(self) -> dict[str, Any]:
        try:
            write_summary(self.files, self.progress)
            self.files.write_metrics(self.progress.rows)
        except OSError as error:
            raise cannot_write(self.files.path, error) from None
        try:
            if len(self.progress.rows) < self.run.training.epochs:
                self._train()
        except StreamError as error:
            kept = self.checkpoints.latest_step()
            said = "nothing is" if kept is None else f"step {kept} is"
            line = f"{error}; {said} saved, rerun the same command to resume"
            # The drive may be mounted again: a scheduler should restart the run.
            kind = Stopped if isinstance(error, SourceGoneError) else UserError
            raise kind(line) from None
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
        return self.progress.summary()

    def _bad_images_file(self) -> pathlib.Path:
        """The list of unreadable images of this process, which reads a part of them."""
        file = self.files.bad_images_file
        return file if is_primary() else file.with_suffix(f".{jax.process_index()}.txt")

    def _progress_so_far(self) -> RunProgress:
        """The progress of the newest checkpoint, completed by a missing metric line."""
        progress = self.checkpoints.read_progress() or RunProgress()
        progress.epoch_steps = self.run.steps_per_epoch
        progress.image_digest = self.run.data.digest()
        if (
            len(progress.rows) < self.run.training.epochs
        ):  # otherwise another process made it
            progress.provenance = provenance(self.run.description.values)
        self.bad.reasons.update(progress.bad_images)
        # Only the first process has the file, which it rewrites next.
        (first, *_) = gather_texts(json.dumps(self.files.read_metrics()))
        lines = json.loads(first)[len(progress.rows) :]
        if progress.is_waiting() and lines:
            progress.finish_epoch(lines[0])
        return progress

    def _train(self) -> None:
        run, progress = self.run, self.progress
        announce(run, self.files)
        feeds = run.feeds(self.bad)
        state = self._first_state(feeds)
        if progress.is_waiting():
            self._end_epoch(state)
        if len(progress.rows) == run.training.epochs:
            return
        self._announce("step", int(state.step), run.total_steps)
        stop = any_process(self.stop.requested, run.mesh)
        done = train_epochs(
            run,
            state,
            feeds,
            progress.throughput,
            stop=stop,
            watch=self.reporter.watch,
        )
        try:
            for _, state, metrics in done:
                progress.add(metrics)
                if progress.is_waiting():
                    self._end_epoch(state)
                elif jax.process_count() > 1 or self.stop.requested():
                    self._leave(state)
                # Otherwise the stream ended: the next iteration raises the reason.
        except StreamError:
            if jax.process_count() == 1:  # other processes may still be able to read
                self._save(state)
            raise

    def _announce(self, phase: str, done: int, steps: int) -> None:
        logger.info("compiling the %s; the first one takes longer", phase)
        self.reporter.phase_begun(phase, done, steps)

    def _first_state(self, feeds: OpenFeed) -> TrainState:
        if self.checkpoints.latest_step() is None:
            if self.run.method.start_up is not None:
                logger.info("start-up: filling the bank")
                self._announce("start-up step", 0, self.run.start_up_steps)
            return start_up(
                self.run, feeds, self.progress.throughput, watch=self.reporter.watch
            )
        state = restore_state(self.run, self.checkpoints)
        logger.info("continuing from step %d", int(state.step))
        return state

    def _end_epoch(self, state: TrainState) -> None:
        progress, training = self.progress, self.run.training
        epoch = len(progress.rows) + 1
        try:
            row = self.monitor.row(epoch, state, progress.begun)
        except Stopped:
            self._leave(state)
        progress.finish_epoch(row)
        self.policy.write_line(progress)
        progress.note_process(self.bad)
        due = epoch % training.checkpoint_every_epochs == 0
        self.policy.epoch_done(state, progress, due=due)
        if epoch == training.epochs:
            self.policy.save_now(state, progress)
        # Last, after saving: a reporter may fail.
        speed = progress.throughput.images_per_second()
        self.reporter.epoch_done(epoch, training.epochs, row, speed)

    def _save(self, state: TrainState) -> None:
        self.progress.note_process(self.bad)
        self.policy.save_now(state, self.progress)

    def _leave(self, state: TrainState) -> NoReturn:
        self._save(state)
        raise Stopped(
            f"saved at step {int(state.step)}; rerun the same command to resume"
        ) from None


def start_up(
    run: Pretraining,
    feeds: OpenFeed,
    throughput: Throughput,
    *,
    watch: WatchFn = lambda *_: None,
) -> TrainState:
    """The state at the start of training, after the start-up phase of the method.

    After the start-up phase the target encoder gets the online encoder's parameters.
    Both keep their BatchNorm statistics. The encoder's momentum is kept and its
    schedule restarts.

    Args:
        run: the run.
        feeds: feeds of its examples.
        throughput: measures the time and counts the images.
        watch: called after every dispatch.
    """
    state = run.initial_state()
    phase = run.method.start_up
    if phase is not None:
        warmed = _warm(run, phase, state, feeds, throughput, watch)
        state = hand_over(warmed, state)
    return run.place(state)


def _warm(
    run: Pretraining,
    phase: StartUp,
    state: TrainState,
    feeds: OpenFeed,
    throughput: Throughput,
    watch: WatchFn,
) -> TrainState:
    """The last state of the start-up phase, which starts from a state's encoder."""
    optimizer = run.start_up_optimizer()
    _, extra = phase.method.init(run.keys.players)
    warming = state._replace(extra=extra, opt_state=optimizer.init(state.players))
    # A copy, because the dispatch donates its arguments and the caller needs `state`.
    warming = run.place(jax.tree.map(jnp.copy, warming))
    with feeds(
        run.keys.start_up_order,
        steps=run.start_up_steps // max(phase.epochs, 1),
        epochs=max(phase.epochs, 1),
    ) as feed:
        *_, (_, warming, _) = run_phase(
            run.dispatch(run.start_up_step(), warming, feed.layout),
            warming,
            feed,
            throughput,
            batch_size=run.training.batch_size,
            most_skipped=run.training.skip_nonfinite,
            phase="start-up step",
            watch=watch,
        )
    return warming


def train_epochs(
    run: Pretraining,
    state: TrainState,
    feeds: OpenFeed,
    throughput: Throughput,
    *,
    stop: Callable[[], bool] = lambda: False,
    watch: WatchFn = lambda *_: None,
) -> EpochsDone:
    """Trains from the step of the state to the end of the run.

    Args:
        run: the run.
        state: on the device; donated.
        feeds: feeds of the examples.
        throughput: measures the time and counts the images.
        stop: called after every dispatch; True yields before the end of the epoch.
        watch: called after every dispatch.

    Yields:
        (number of the epoch, from 1; state, metrics of each of the epoch's steps, those
        before the first state's left out).

    Raises:
        NonFiniteError: a metric or a player became NaN or infinite.
    """
    with feeds(
        run.keys.order,
        steps=run.steps_per_epoch,
        epochs=run.training.epochs,
        first_step=int(state.step),
    ) as feed:
        yield from run_phase(
            run.dispatch(run.training_step(), state, feed.layout),
            state,
            feed,
            throughput,
            batch_size=run.training.batch_size,
            most_skipped=run.training.skip_nonfinite,
            stop=stop,
            watch=watch,
        )
