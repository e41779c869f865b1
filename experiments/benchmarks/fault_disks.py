"""Disk failures during a run: full, read-only, unmounted."""

import contextlib
import pathlib
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.workdir import Workdir
from experiments.benchmarks.fault_runs import Ended, Process, Runs, same_end

_TMPFS_BYTES = 4 * 2**20


def all_disks(runs: Runs, method: str = "caco") -> dict[str, Any]:
    """Runs every disk failure, and returns how the run handled it.

    Cases that need a mounted tmpfs are skipped if mounting is not permitted.
    """
    runs.reference(method)
    found = {
        "no_file_may_grow": no_file_may_grow(runs, method),
        "directory_gone": directory_gone(runs, method),
    }
    place = runs.root / "small"
    with _mounted(place) as is_mounted:
        if is_mounted:
            found["disk_full"] = disk_full(runs, method, place)
            found["read_only_at_the_start"] = read_only(runs, method, place)
    return found


def no_file_may_grow(runs: Runs, method: str) -> dict[str, Any]:
    """After the first saves the kernel refuses all files of more than a few bytes."""
    workdir = runs.root / "limited"

    def limit(process: Process) -> None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (64, 64))

    return _failing(runs, method, workdir, limit, lambda: None)


def directory_gone(runs: Runs, method: str) -> dict[str, Any]:
    """The directory is moved away, and moved back before the run is resumed."""
    workdir, away = runs.root / "moving", runs.root / "away"

    def move(process: Process) -> None:
        del process
        workdir.rename(away)

    def back() -> None:
        shutil.rmtree(workdir, ignore_errors=True)
        away.rename(workdir)

    return _failing(runs, method, workdir, move, back)


def disk_full(runs: Runs, method: str, place: pathlib.Path) -> dict[str, Any]:
    """After the first saves another file fills up a small disk."""
    ballast = place / "ballast"

    def fill(process: Process) -> None:
        del process
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"0" * 4096)

    return _failing(runs, method, place / "run", fill, ballast.unlink)


def read_only(runs: Runs, method: str, place: pathlib.Path) -> dict[str, Any]:
    """A disk that is read-only from the start refuses in one line."""
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    ended = runs.finish(method, place / "run")
    return {"status": ended.status, "one_line": _is_refusal(ended)}


def _failing(
    runs: Runs,
    method: str,
    workdir: pathlib.Path,
    spoil: Callable[[Process], None],
    mend: Callable[[], object],
) -> dict[str, Any]:
    """A run whose disk fails after its first saves and is then repaired."""
    with runs.started(method, workdir) as process:
        process.reach("evaluation", 3)  # the first epoch is saved
        spoil(process)
        ended = process.wait()
    mend()
    kept = Checkpoints(Workdir(workdir)).latest_step()
    last_line = ended.stderr.splitlines()[-1]
    again = runs.finish(method, workdir)
    same = again.status == 0 and same_end(workdir, runs.reference(method))
    shutil.rmtree(workdir)
    return {
        "status": ended.status,
        "warnings": ended.stderr.count("to be tried again"),
        "gave_up_in_one_line": "gave up after 3 attempts" in last_line,
        "clean": ended.is_clean and again.is_clean,
        "kept_step": kept,
        "same_end": same,
    }


def _is_refusal(ended: Ended) -> bool:
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    return ended.is_clean and len(errors) == 1


@contextlib.contextmanager
def _mounted(place: pathlib.Path) -> Iterator[bool]:
    """A small file system in memory, if this process may mount one."""
    place.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={_TMPFS_BYTES}", "tmpfs"]
    try:
        done = subprocess.run(
            ["mount", *options, place], check=False, capture_output=True
        )
    except FileNotFoundError:
        yield False
        return
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", place], check=True)
