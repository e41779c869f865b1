"""Scaling of time and memory with problem size: fits and figure."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from caco_jax.analysis.plots import COLOURS, save
from experiments.benchmarks.comparison import OURS, Row
from experiments.benchmarks.workers import Candidate, Crew

GAME = {
    "queries": 256,
    "entries": 16384,
    "dim": 128,
    "temperature": 0.08,
    "bank_temperature": 0.1,
}
ENCODER = {
    "batch": 16,
    "pixels": 32,
    "network": {
        "stage_sizes": (1, 1, 1),
        "block": "basic",
        "width": 16,
        "stem": "small",
    },
    "widths": (64, 64, 64),
    "entries": 256,
    "temperature": 0.1,
    "dtype": "float32",
}


class Sweep(NamedTuple):
    """A sweep of one setting, with all others fixed.

    Attributes:
        function: name of one of our candidates.
        held: its fixed settings.
        grows: the setting that is swept.
        values: its values, rising.
    """

    function: str
    held: Mapping[str, Any]
    grows: str
    values: Sequence[int]


SWEEPS = {
    "bank entries K": Sweep("bank", GAME, "entries", (8192, 16384, 32768, 65536)),
    "queries N": Sweep("bank", GAME, "queries", (128, 256, 512, 1024)),
    "width D": Sweep("bank", GAME, "dim", (64, 128, 256, 512)),
    "batch of a step": Sweep("caco", ENCODER, "batch", (8, 16, 32, 64)),
    "image side, pixels": Sweep("caco", ENCODER, "pixels", (16, 32, 64)),
    "devices": Sweep("bank", GAME, "devices", (1, 2, 4, 8)),
}
SMOKE_SWEEPS = {
    "queries N": Sweep("bank", {**GAME, "entries": 256}, "queries", (8, 16)),
    "devices": Sweep("bank", {**GAME, "entries": 256}, "devices", (1, 2)),
}


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log cost over log value, by least squares."""
    across, up = ([math.log(number) for number in row] for row in (values, costs))
    middle, height = (sum(row) / len(row) for row in (across, up))
    rise = sum((x - middle) * (y - height) for x, y in zip(across, up, strict=True))
    return rise / sum((x - middle) ** 2 for x in across)


def measure(sweeps: Mapping[str, Sweep], *, runs: int) -> dict[str, Row]:
    """Time and memory of each point of each sweep, in turn, with fitted exponents.

    Devices are virtual ones on the same cores: the same work on more of them shows the
    cost of sharding, and each needs less memory.
    """
    rows = {}
    for name, sweep in sweeps.items():
        rows[name] = row = _measure(sweep, runs=runs)
        for value, seconds, memory in zip(
            row["values"], row["seconds"], row["bytes_a_device"], strict=True
        ):
            time = f"{1e3 * seconds:.1f} ms"
            print(f"{name:>18} {value:>8,} {time:>12} {memory / 1e6:>8.1f} MB")
        time_power, memory_power = row["time_exponent"], row["memory_exponent"]
        print(f"{'':18} time ~ x^{time_power:.2f}, memory ~ x^{memory_power:.2f}\n")
    return rows


def _measure(sweep: Sweep, *, runs: int) -> Row:
    if sweep.grows == "devices":
        flags = os.environ.get("XLA_FLAGS", "")
        count = f"--xla_force_host_platform_device_count={max(sweep.values)}"
        os.environ["XLA_FLAGS"] = f"{flags} {count}"
    try:
        with Crew(limit_seconds=300) as crew:
            sides = crew.compare(
                {
                    str(value): Candidate(
                        f"{OURS}:{sweep.function}", {**sweep.held, sweep.grows: value}
                    )
                    for value in sweep.values
                },
                runs=runs,
            )
    finally:
        if sweep.grows == "devices":
            os.environ["XLA_FLAGS"] = flags
    failed = [side["failed"] for side in sides.values() if "failed" in side]
    if failed:
        raise RuntimeError(failed[0])
    seconds = [side["seconds"].median for side in sides.values()]
    memory = [side["memory_bytes"] for side in sides.values()]
    return {
        "values": list(sweep.values),
        "seconds": seconds,
        "fastest_and_slowest": [list(side["seconds"][1:3]) for side in sides.values()],
        "bytes_a_device": memory,
        "time_exponent": exponent(sweep.values, seconds),
        "memory_exponent": exponent(sweep.values, memory),
    }


def plot(rows: Mapping[str, Row], path: str | os.PathLike[str]) -> None:
    """Time and memory of each sweep, both axes logarithmic, with the exponents."""
    columns = min(len(rows), 3)
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(3.6 * columns, 3 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, (name, row) in zip(panels, rows.items(), strict=False):
        twin = panel.twinx()
        for axis, key, colour, marker, label in (
            (panel, "seconds", COLOURS[0], "o", "seconds a step"),
            (twin, "bytes_a_device", COLOURS[1], "s", "bytes a device"),
        ):
            axis.plot(row["values"], row[key], color=colour, marker=marker)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_ylabel(label, color=colour)
            middle = math.sqrt(row[key][0] * row[key][-1])
            axis.set_ylim(middle / 8, middle * 8)
        panel.set_xlabel(name)
        panel.set_title(
            f"time ~ x^{row['time_exponent']:.2f}, "
            f"memory ~ x^{row['memory_exponent']:.2f}",
            fontsize=9,
        )
    for panel in panels[len(rows) :]:
        panel.remove()
    save(figure, path)
