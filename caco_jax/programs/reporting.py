"""Progress of a run: a progress bar or log lines, TensorBoard, Weights & Biases."""

import argparse
import logging
import pathlib
import sys
import time
from typing import Any

import numpy as np

from caco_jax._extras import require_package
from caco_jax._paths import bucket_address
from caco_jax.programs.events import EventFile
from caco_jax.runs.fit import Reporter

logger = logging.getLogger("caco_jax")
SECONDS_BETWEEN_LINES = 60.0


def make_reporter(flags: argparse.Namespace) -> Reporter:
    """The reporters of the flags; a progress bar on a terminal, log lines elsewhere.

    Raises:
        UserError: --wandb is given and the package is not installed.
    """
    everyone: list[Reporter] = [Bar() if sys.stderr.isatty() else Lines()]
    if bucket_address(flags.workdir):
        logger.info("no TensorBoard events are written into a bucket")
    elif not flags.no_tensorboard:
        everyone.append(TensorBoard(pathlib.Path(flags.workdir) / "tensorboard"))
    if flags.wandb:
        everyone.append(WeightsAndBiases(flags.wandb, flags.workdir))
    return Everyone(everyone)


class Everyone(Reporter):
    """Several reporters as one; a failure in one of them does not stop the run."""

    def __init__(self, reporters: list[Reporter]) -> None:
        self._reporters = reporters
        self._failed: set[Reporter] = set()

    def _tell(self, what: str, *args: Any) -> None:
        for reporter in self._reporters:
            try:
                getattr(reporter, what)(*args)
            except Exception as error:
                if reporter not in self._failed:
                    _warn(type(reporter).__name__, error)
                self._failed.add(reporter)

    def phase_begun(self, *args: Any) -> None:
        """Tells all."""
        self._tell("phase_begun", *args)

    def watch(self, *args: Any) -> None:
        """Tells all."""
        self._tell("watch", *args)

    def epoch_done(self, *args: Any) -> None:
        """Tells all."""
        self._tell("epoch_done", *args)

    def close(self) -> None:
        """Closes all reporters."""
        self._tell("close")


def _warn(name: str, error: Exception) -> None:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    logger.warning(
        "%s cannot report (%s); the run continues, and metrics.jsonl has every line",
        name,
        reason,
    )


def in_words(row: dict[str, Any], images_per_second: float) -> str:
    """The loss of an epoch, kNN accuracy if measured, and images per second."""
    knn = row.get("knn")
    said = "" if knn is None else f", kNN {knn:.1%}"
    return f"loss {row['loss']:.3f}{said}, {images_per_second:,.0f} images/s"


def duration(seconds: float) -> str:
    """A time in seconds, minutes, hours or days."""
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 100:
        return f"{minutes:.0f} min"
    return f"{hours:.0f} h" if hours < 100 else f"{hours / 24:.0f} days"


class Pace:
    """Progress of a phase and its estimated time without compilation."""

    def __init__(self, phase: str, done: int, steps: int) -> None:
        self.phase, self.steps = phase, steps
        self._begun, self._first = time.monotonic(), done
        self._since: tuple[int, float] | None = None

    def first_step(self, step: int) -> str | None:
        """The message after the first step; None after later steps."""
        if self._since is not None:
            return None
        self._since = step, time.monotonic()
        seconds = self._since[1] - self._begun
        return f"first {self.phase} done, {seconds:.0f} s with compiling"

    def time_left(self, step: int) -> str:
        """The remaining time as text, "" until it can be estimated."""
        if self._since is None or not self._since[0] < step < self.steps:
            return ""
        done, begun = self._since
        a_step = (time.monotonic() - begun) / (step - done)
        return f", about {duration((self.steps - step) * a_step)} left"


class Bar(Reporter):
    """A progress bar of the epochs on a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._begun = time.perf_counter()
        self._pace = Pace("step", 0, 0)

    def phase_begun(self, phase: str, done: int, steps: int) -> None:
        """Starts a phase; phases before the epochs get a bar of steps."""
        self._pace = Pace(phase, done, steps)
        if phase != "step":
            self._bar = _bar(total=steps, unit=phase.removesuffix(" step") + " step")

    def watch(self, phase: str, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Updates the bar of steps, and reports the end of the first step."""
        said = self._pace.first_step(step)
        if said is not None:
            _print_line(said)
        if phase != "step" and self._bar is not None:
            self._bar.update(step - self._bar.n)
            if step == self._pace.steps:
                self._bar.close()
                self._bar, self._begun = None, time.perf_counter()

    def epoch_done(
        self, epoch: int, epochs: int, row: dict[str, Any], images_per_second: float
    ) -> None:
        """Shows the metrics of an epoch."""
        if self._bar is None:
            self._bar = _bar(total=epochs, initial=epoch - 1, unit="epoch")
            self._bar.start_t -= time.perf_counter() - self._begun
            self._bar.last_print_t = self._bar.start_t
        self._bar.set_postfix_str(in_words(row, images_per_second), refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Closes the bar, which stays on the terminal."""
        if self._bar is not None:
            self._bar.close()


def _bar(**how: Any) -> Any:
    from tqdm import tqdm

    return tqdm(mininterval=1.0, **how)


def _print_line(line: str) -> None:
    """Prints a line on stderr, above the bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


class Lines(Reporter):
    """Log lines on stderr, one each minute and one for the last epoch."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._pace = Pace("step", 0, 0)

    def _is_due(self) -> bool:
        return time.monotonic() - self._last >= SECONDS_BETWEEN_LINES

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        self._last = time.monotonic()

    def phase_begun(self, phase: str, done: int, steps: int) -> None:
        """Starts to measure the speed of a phase."""
        self._pace = Pace(phase, done, steps)

    def watch(self, phase: str, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Reports the end of the first step, and the progress once a minute."""
        said = self._pace.first_step(step)
        if said is not None:
            self._say(said)
        elif self._is_due():
            left = self._pace.time_left(step)
            self._say(
                f"{phase} {step:,} of {self._pace.steps:,}: loss "
                f"{metrics['loss'][-1]:.3f}{left}"
            )

    def epoch_done(
        self, epoch: int, epochs: int, row: dict[str, Any], images_per_second: float
    ) -> None:
        """Reports an epoch, if nothing was printed for a minute."""
        if self._is_due() or epoch == epochs:
            said = in_words(row, images_per_second)
            self._say(f"epoch {epoch:,} of {epochs:,}: {said}")


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a row that can be drawn over epochs."""
    return {
        name: value
        for name, value in row.items()
        if isinstance(value, int | float) and name != "epoch"
    }


class TensorBoard(Reporter):
    """TensorBoard scalars of each epoch.

    Args:
        folder: directory of the event files; a resumed run adds to it.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._file: EventFile | None = None

    def epoch_done(
        self, epoch: int, epochs: int, row: dict[str, Any], images_per_second: float
    ) -> None:
        """Writes the metrics of an epoch."""
        try:
            if self._file is None:  # drops what a killed run wrote of this epoch
                self._file = EventFile(self._folder, purge_step=epoch)
            speed = {"images_per_second": images_per_second}
            self._file.write(epoch, numbers(row) | speed)
        except OSError:  # only metrics.jsonl and the checkpoints are essential
            self._file = None


class WeightsAndBiases(Reporter):
    """Metrics of each epoch at Weights & Biases.

    Args:
        project: name of the project.
        workdir: directory of the run, which names the run there and identifies it on
            resume.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, project: str, workdir: str) -> None:
        wandb = require_package("wandb", purpose="--wandb")
        address = bucket_address(workdir)
        path = pathlib.Path(workdir).absolute()
        place = str(path) if address is None else address.removeprefix("gs://")
        self._run: Any = None
        try:
            self._run = wandb.init(
                project=project,
                name=path.name,
                id=place.strip("/").replace("/", "-"),
                resume="allow",
                dir=place if address is None else None,
            )
        except (
            Exception
        ) as error:  # the server may be unreachable; training does not depend on it
            _warn(type(self).__name__, error)

    def epoch_done(
        self, epoch: int, epochs: int, row: dict[str, Any], images_per_second: float
    ) -> None:
        """Logs the metrics of an epoch."""
        if self._run is None:
            return
        values = numbers(row) | {"images_per_second": images_per_second}
        self._run.log(values, step=epoch)

    def close(self) -> None:
        """Sends the remaining metrics."""
        if self._run is not None:
            self._run.finish()
