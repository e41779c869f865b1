"""The checkpoint policy: when to save, and how many failed saves end the run."""

import logging
import time
from collections.abc import Callable

from caco_jax.runs.checkpoints import Checkpoints, SaveError
from caco_jax.runs.progress import RunProgress
from caco_jax.runs.workdir import Workdir, write_json
from caco_jax.training.state import TrainState

logger = logging.getLogger("caco_jax")

_PAUSE_SECONDS = 1.0


class CheckpointPolicy:
    """Saves the newest states and the best, and tolerates some failed saves.

    Args:
        files: the run's directory.
        newest: number of checkpoints of the newest states.
        best: number of checkpoints of the best states by kNN.
        attempts: number of successive failed saves that end the run.
    """

    def __init__(
        self, files: Workdir, newest: Checkpoints, best: Checkpoints, *, attempts: int
    ) -> None:
        self._files, self._newest, self._best = files, newest, best
        self._attempts, self._failures = attempts, 0
        self._lines_missing = False

    def write_line(self, progress: RunProgress) -> None:
        """Writes the metric line of the last epoch, and lines that failed before."""
        try:
            if self._lines_missing:
                self._files.write_metrics(progress.rows)
            else:
                self._files.append_metrics(progress.rows[-1])
            self._lines_missing = False
        except OSError as error:
            self._lines_missing = True
            logger.warning(
                "cannot write to %s: %s; its lines are in the checkpoints, too",
                self._files.metrics_file,
                error.strerror,
            )

    def epoch_done(
        self, state: TrainState, progress: RunProgress, *, due: bool
    ) -> None:
        """Saves after an epoch if it is due, the best so far, or failed before.

        Raises:
            SaveError: too many saves failed in succession.
        """

        def save() -> None:
            if due or self._failures:
                self._save(self._newest, state, progress)
            if progress.is_best():
                self._save(self._best, state, progress)

        self._try(save)

    def save_now(self, state: TrainState, progress: RunProgress) -> None:
        """Saves and waits until it is done, with the remaining attempts.

        Raises:
            SaveError: all failed.
        """
        while not self._try(
            lambda: self._save(self._newest, state, progress, wait=True)
        ):
            time.sleep(_PAUSE_SECONDS)
        self._try(self._best.finish)

    def _save(
        self,
        checkpoints: Checkpoints,
        state: TrainState,
        progress: RunProgress,
        *,
        wait: bool = False,
    ) -> None:
        if checkpoints.finish():
            self._failures = 0
        if not self._files.has_run():
            raise SaveError(f"--workdir: {self._files.path} is no longer there")
        checkpoints.save(state, progress)
        write_summary(self._files, progress)
        if wait:
            checkpoints.finish()

    def _try(self, act: Callable[[], object]) -> bool:
        try:
            act()
        except (SaveError, OSError) as error:
            self._failures += 1
            left = self._attempts - self._failures
            if left <= 0:
                raise SaveError(
                    f"{error}; gave up after {self._failures} attempts, earlier "
                    "checkpoints are unchanged; check the disk, then rerun the same "
                    "command to resume"
                ) from None
            logger.warning("%s; it will be tried again (%d attempts left)", error, left)
            return False
        return True


def write_summary(files: Workdir, progress: RunProgress) -> None:
    """Writes ``summary.json``, whose values are in the checkpoints, too."""
    write_json(files.summary_file, progress.summary())
