"""Who follows a run from the command line: a bar or lines, TensorBoard, W&B."""

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
    """Everyone that the flags name; a bar on a terminal, lines elsewhere.

    Raises:
        UserError: Weights & Biases is asked for and not installed.
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
    """Several as one; whatever fails in one of them, the run goes on."""

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
        """Closes all."""
        self._tell("close")


def _warn(name: str, error: Exception) -> None:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    logger.warning(
        "%s cannot report (%s); the run goes on, metrics.jsonl has every line",
        name,
        reason,
    )


def in_words(row: dict[str, Any], images_per_second: float) -> str:
    """An epoch's loss, kNN if it was found, and the speed."""
    knn = row.get("knn")
    said = "" if knn is None else f", kNN {knn:.1%}"
    return f"loss {row['loss']:.3f}{said}, {images_per_second:,.0f} images/s"


def duration(seconds: float) -> str:
    """A time in the unit that fits it."""
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 100:
        return f"{minutes:.0f} min"
    return f"{hours:.0f} h" if hours < 100 else f"{hours / 24:.0f} days"


class Pace:
    """How far a phase is and how long it will take, compiling left out."""

    def __init__(self, phase: str, done: int, steps: int) -> None:
        self.phase, self.steps = phase, steps
        self._begun, self._first = time.monotonic(), done
        self._since: tuple[int, float] | None = None

    def first_step(self, step: int) -> str | None:
        """What is said when the first step is done; None after it."""
        if self._since is not None:
            return None
        self._since = step, time.monotonic()
        seconds = self._since[1] - self._begun
        return f"first {self.phase} done, {seconds:.0f} s with compiling"

    def time_left(self, step: int) -> str:
        """In words, "" as long as it is not known."""
        if self._since is None or not self._since[0] < step < self.steps:
            return ""
        done, begun = self._since
        a_step = (time.monotonic() - begun) / (step - done)
        return f", about {duration((self.steps - step) * a_step)} left"


class Bar(Reporter):
    """Epochs on a terminal, with the time left."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._begun = time.perf_counter()
        self._pace = Pace("step", 0, 0)

    def phase_begun(self, phase: str, done: int, steps: int) -> None:
        """A bar of its own, of steps, for what is before the epochs."""
        self._pace = Pace(phase, done, steps)
        if phase != "step":
            self._bar = _bar(total=steps, unit=phase.removesuffix(" step") + " step")

    def watch(self, phase: str, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Shows the steps before the epochs, and says when the first one is done."""
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
        """Shows an epoch's row."""
        if self._bar is None:
            self._bar = _bar(total=epochs, initial=epoch - 1, unit="epoch")
            self._bar.start_t -= time.perf_counter() - self._begun
            self._bar.last_print_t = self._bar.start_t
        self._bar.set_postfix_str(in_words(row, images_per_second), refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _bar(**how: Any) -> Any:
    from tqdm import tqdm

    return tqdm(mininterval=1.0, **how)


def _print_line(line: str) -> None:
    """A line on stderr, above a bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


class Lines(Reporter):
    """Plain lines on stderr, one a minute and one for the last epoch."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._pace = Pace("step", 0, 0)

    def _is_due(self) -> bool:
        return time.monotonic() - self._last >= SECONDS_BETWEEN_LINES

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        self._last = time.monotonic()

    def phase_begun(self, phase: str, done: int, steps: int) -> None:
        """Begins to measure the phase's pace."""
        self._pace = Pace(phase, done, steps)

    def watch(self, phase: str, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Says when the first step is done, and each minute where it is."""
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
        """Says an epoch's row, if nothing was said for a minute."""
        if self._is_due() or epoch == epochs:
            said = in_words(row, images_per_second)
            self._say(f"epoch {epoch:,} of {epochs:,}: {said}")


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """What of a row can be drawn over epochs."""
    return {
        name: value
        for name, value in row.items()
        if isinstance(value, int | float) and name != "epoch"
    }


class TensorBoard(Reporter):
    """A curve for each figure of a row, over epochs.

    Args:
        folder: of the events; a resumed run goes on in it.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._file: EventFile | None = None

    def epoch_done(
        self, epoch: int, epochs: int, row: dict[str, Any], images_per_second: float
    ) -> None:
        """Writes an epoch's row."""
        try:
            if self._file is None:  # what a killed run wrote of this epoch is void
                self._file = EventFile(self._folder, purge_step=epoch)
            speed = {"images_per_second": images_per_second}
            self._file.write(epoch, numbers(row) | speed)
        except OSError:  # metrics.jsonl and the checkpoints are what must not fail
            self._file = None


class WeightsAndBiases(Reporter):
    """The same figures, at Weights & Biases.

    Args:
        project: of theirs.
        workdir: of the run; its name, and its identity when it is resumed.

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
        except Exception as error:  # a server may be away; a run that is due is not
            _warn(type(self).__name__, error)

    def epoch_done(
        self, epoch: int, epochs: int, row: dict[str, Any], images_per_second: float
    ) -> None:
        """Logs an epoch's row."""
        if self._run is None:
            return
        values = numbers(row) | {"images_per_second": images_per_second}
        self._run.log(values, step=epoch)

    def close(self) -> None:
        """Sends what is still here."""
        if self._run is not None:
            self._run.finish()
