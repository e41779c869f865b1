"""Times from a command to its first step, with and without the compilation cache."""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from experiments.benchmarks.comparison import Row

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A dispatch starts when the metrics of the one before the last are there: at the third
# the first is done.
DISPATCHES = 3


def first_step(recipe: str, workdir: str, environment: dict[str, str]) -> float:
    """Seconds from the start of `caco pretrain` to the end of its first step.

    Raises:
        RuntimeError: the command ended before.
    """
    module = "experiments.benchmarks.traced"  # pretrain, which reports its phases
    command = [sys.executable, "-m", module, f"--config={recipe}"]
    begun = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [*command, f"--workdir={workdir}"],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        seen = 0
        for said in process.stdout:
            seen += said.strip() == "step"
            if seen == DISPATCHES:
                break
        seconds = time.perf_counter() - begun
        process.kill()
        process.wait()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["nothing on stderr"])[-1]
    if seen < DISPATCHES:
        raise RuntimeError(f"{recipe} ended before its first step: {last}")
    return seconds


def measure(recipe: str, *, runs: int) -> Row:
    """Times starts without a cache, with an empty one, and with a filled one."""
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for run in range(runs):
            cache = os.path.join(folder, f"cache{run}")
            kept = {"JAX_COMPILATION_CACHE_DIR": cache}
            for name, environment in (
                ("no cache", {"JAX_ENABLE_COMPILATION_CACHE": "false"}),
                ("empty cache", kept),
                ("filled cache", kept),
            ):
                workdir = os.path.join(folder, f"{name} {run}")
                took = first_step(recipe, workdir, environment)
                seconds.setdefault(name, []).append(took)
    medians: dict[str, Any] = {}
    for name, times in seconds.items():
        medians[name] = {"median": statistics.median(times), "runs": times}
        spread = f"{min(times):.1f}-{max(times):.1f}"
        print(f"{name:>18} {medians[name]['median']:8.1f} s ({spread})", flush=True)
    return {"recipe": recipe, "seconds": medians}
