"""Shared code of benchmarks: alternating timings, description of the machine, JSON."""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from caco_jax._process import usable_cores as cores
from caco_jax.runs.machine import processor
from caco_jax.schema import require


def parse_parts(
    parser: argparse.ArgumentParser,
    parts: Collection[str],
    arguments: Sequence[str] | None = None,
) -> argparse.Namespace:
    """Parses the options of a benchmark with parts, and --parts.

    Args:
        parser: parser with the benchmark's other options; it reports unknown parts.
        parts: all parts, in their default order.
        arguments: command-line arguments; None: those of this process.
    """
    parser.add_argument(
        "--parts", default=",".join(parts), help="Parts to measure, in this order."
    )
    options = parser.parse_args(arguments)
    if set(options.parts.split(",")) - set(parts):
        parser.error(
            f"--parts: expected some of {', '.join(parts)}, got {options.parts}"
        )
    return options


def require_known(flag: str, names: Collection[str], known: Collection[str]) -> None:
    """Raises UserError unless all names given for a flag are known."""
    for name in names:
        require(
            name in known,
            f"--{flag}: expected some of {', '.join(known)}, got {name!r}",
        )


def require_least(flags: argparse.Namespace, **least: float) -> None:
    """Raises UserError if the number of a flag is too small."""
    for name, bound in least.items():
        value = getattr(flags, name)
        require(value >= bound, f"--{name}: expected at least {bound}, got {value}")


class Timing(NamedTuple):
    """Wall-clock seconds of repeated runs."""

    median: float
    fastest: float
    slowest: float
    runs: int


def alternate(
    candidates: Mapping[str, Callable[[], object]],
    *,
    runs: int,
    pause_seconds: float = 0.05,
) -> dict[str, Timing]:
    """Times the candidates in turn, so that other work affects all of them alike.

    Args:
        candidates: functions that return when their work is done; JAX arrays in their
            result are waited for.
        runs: timed runs of each, after an untimed one.
        pause_seconds: pause before each run. Threads of a library spin for some
            milliseconds after its work, and would disturb the next one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for run in range(-1, runs):
        for name, candidate in candidates.items():
            time.sleep(pause_seconds)
            start = time.perf_counter()
            jax.block_until_ready(candidate())
            if run >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: Timing(statistics.median(times), min(times), max(times), runs)
        for name, times in seconds.items()
    }


def machine(packages: Sequence[str] = ("jax", "jaxlib", "numpy")) -> dict[str, Any]:
    """The machine and the versions of a measurement."""
    return {
        "processor": processor(),
        "cores": cores(),
        "load_average_1_minute": os.getloadavg()[0],
        "devices": [device.device_kind for device in jax.devices()],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(timings: Mapping[str, Timing]) -> str:
    """The timings as text, one line each, in milliseconds."""
    width = max(map(len, timings))
    lines = [f"{'':{width}}  {'median':>9} {'fastest':>9} {'slowest':>9}  (ms)"]
    for name, timing in timings.items():
        times = " ".join(f"{1e3 * seconds:9.1f}" for seconds in timing[:3])
        lines.append(f"{name:{width}}  {times}  {timing.runs} runs")
    return "\n".join(lines)


def write_json(path: str | os.PathLike[str], figures: Mapping[str, Any]) -> None:
    """Writes the results; timings become objects with named fields."""

    def plain(value: Any) -> Any:
        if isinstance(value, Timing):
            return value._asdict()
        if isinstance(value, Mapping):
            return {key: plain(entry) for key, entry in value.items()}
        return value

    pathlib.Path(path).write_text(json.dumps(plain(figures), indent=2) + "\n")
