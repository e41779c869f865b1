"""Small runs in separate processes for fault injection, and their results."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from PIL import Image

from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.workdir import Workdir

METHODS = ("caco", "adco", "moco", "folder")
EPOCHS = 4
_TIMEOUT_SECONDS = 600
_SETTINGS = {
    "training.epochs": EPOCHS,
    "training.checkpoint_every_epochs": 1,
    "training.keep_checkpoints": 3,
    "evaluation.knn_every_epochs": 1,
}
_PICTURES = 48  # number of images in the folder, of two classes


class Runs:
    """Runs below one folder: flags, environment, undisturbed references.

    Args:
        root: an empty folder for all of them.
        cache: compilation cache; None: in `root`.
    """

    def __init__(self, root: pathlib.Path, cache: pathlib.Path | None = None) -> None:
        self.root = root
        self._pictures = root / "pictures"
        self._environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(cache or root / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            # The last value of a repeated flag counts.
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")
            + " --xla_force_host_platform_device_count=1",
            "PYTHONUNBUFFERED": "1",
        }

    def flags(self, method: str) -> list[str]:
        """Of experiments.pretrain, but for the workdir."""
        settings: dict[str, Any] = dict(_SETTINGS)
        if method == "folder":
            recipe = "configs/caco_imagenet.py:smoke"
            settings["data.source"] = f"folder:{self._folder()}"
            settings["data.workers"] = 2
        else:
            recipe = f"configs/{method}_digits.py:smoke"
            settings |= {"data.source": "digits", "training.batch_size": 128}
        return [
            f"--config={recipe}",
            *(f"--config.{key}={value}" for key, value in settings.items()),
        ]

    def _folder(self) -> pathlib.Path:
        """Images of two classes, made at the first call."""
        if not self._pictures.exists():
            rng = np.random.default_rng(0)
            for index in range(_PICTURES):
                folder = self._pictures / ("dark", "light")[index % 2]
                folder.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(128, size=(24, 24, 3)) + 127 * (index % 2)
                file = folder / f"{index}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(file)
        return self._pictures

    @contextlib.contextmanager
    def started(
        self, method: str, workdir: pathlib.Path, *flags: str, traced: bool = True
    ) -> Iterator["Process"]:
        """A process that trains or resumes; it ends with the block."""
        module = f"experiments.{'benchmarks.traced' if traced else 'pretrain'}"
        command = [sys.executable, "-m", module, *self.flags(method)]
        process = Process([*command, f"--workdir={workdir}", *flags], self._environment)
        try:
            yield process
        finally:
            process.kill()

    def finish(self, method: str, workdir: pathlib.Path, *flags: str) -> "Ended":
        """Trains or resumes to the end."""
        with self.started(method, workdir, *flags, traced=False) as process:
            return process.wait()

    def reference(self, method: str) -> pathlib.Path:
        """The directory of an undisturbed run, which runs at the first call."""
        workdir = self.root / f"{method}-undisturbed"
        if not workdir.exists():
            ended = self.finish(method, workdir)
            if ended.status != 0:
                raise RuntimeError(f"an undisturbed run failed: {ended.stderr}")
        return workdir


class Ended(NamedTuple):
    """How a process ended."""

    status: int
    stderr: str

    @property
    def is_clean(self) -> bool:
        """Whether no traceback or the like was printed."""
        return "Traceback" not in self.stderr and "Exception" not in self.stderr


class Process:
    """A process that reports its phases."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._phases: list[str] = []
        self._errors: list[str] = []
        self._news = threading.Condition()
        self._listeners = [
            threading.Thread(target=self._listen, args=[stream, lines], daemon=True)
            for stream, lines in (
                (self._process.stdout, self._phases),
                (self._process.stderr, self._errors),
            )
        ]
        for listener in self._listeners:
            listener.start()

    def _listen(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._news:
                    lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            lines.append("ended")
            self._news.notify_all()

    def reach(self, phase: str, count: int = 1) -> bool:
        """Waits until a phase has begun so many times; False if the process ended."""
        with self._news:
            self._news.wait_for(
                lambda: self._phases.count(phase) >= count or "ended" in self._phases,
                timeout=_TIMEOUT_SECONDS,
            )
            return self._phases.count(phase) >= count

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    def wait(self) -> Ended:
        """Waits for its end."""
        status = self._process.wait(_TIMEOUT_SECONDS)
        for listener in self._listeners:
            listener.join(_TIMEOUT_SECONDS)
        return Ended(status, "\n".join(self._errors[:-1]))

    def kill(self) -> None:
        """Kills the process and its workers, if they still run."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()


def final_arrays(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of the newest undamaged checkpoint, by path."""
    checkpoints = Checkpoints(Workdir(workdir))
    folder = checkpoints.folder / str(checkpoints.latest_step())
    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore(folder / "state")
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def same_end(workdir: pathlib.Path, reference: pathlib.Path) -> bool:
    """Whether two runs ended with the same bits, metric lines and counts."""
    ours, theirs = Workdir(workdir), Workdir(reference)
    if ours.metrics_file.read_bytes() != theirs.metrics_file.read_bytes():
        return False
    summaries = [json.loads(files.summary_file.read_text()) for files in (ours, theirs)]
    counts = ("epochs", "steps", "images", "bad_images")
    if any(summaries[0][key] != summaries[1][key] for key in counts):
        return False
    found, expected = final_arrays(workdir), final_arrays(reference)
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype
        and found[name].tobytes() == expected[name].tobytes()
        for name in expected
    )
