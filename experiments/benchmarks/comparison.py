"""Shared code of benchmarks beside PyTorch: candidates, tables."""

from collections.abc import Mapping
from typing import Any

from experiments.benchmarks.workers import Candidate

OURS, TORCH = "experiments.benchmarks.our_steps", "experiments.benchmarks.torch_sides"
Row = dict[str, Any]


def torch_ways(
    function: str, shape: Mapping[str, Any], *, compiled: bool
) -> dict[str, Candidate]:
    """The two PyTorch versions of a candidate; only "tuned" is compiled."""
    return {
        way: Candidate(
            f"{TORCH}:{function}",
            {**shape, "way": way, "compiled": compiled and way == "tuned"},
        )
        for way in ("tuned", "original")
    }


def with_ratios(sides: Mapping[str, Row]) -> Row:
    """The sides, with the ratio of each other side's median to ours."""
    row: Row = dict(sides)
    ours = sides["ours"].get("seconds")
    for name, side in sides.items():
        if name != "ours" and ours and "seconds" in side:
            row[f"{name}_over_ours"] = side["seconds"].median / ours.median
    return row


def with_images(row: Row, batch: int) -> Row:
    """The row with the source images per second of each side."""
    speeds = {
        name: batch / side["seconds"].median
        for name, side in row.items()
        if isinstance(side, dict) and "seconds" in side
    }
    return row | {"images_per_second": speeds}


def line(first: str, *cells: str) -> str:
    """A line of a table."""
    return f"{first:>18}" + "".join(f" {cell:>20}" for cell in cells)


def cells(sides: Mapping[str, Row], *names: str, measure: str = "seconds") -> list[str]:
    """Median, and from fastest to slowest, in milliseconds."""
    found = []
    for name in names:
        side = sides.get(name, {})
        if measure in side:
            median, fastest, slowest, _ = side[measure]
            spread = f"{1e3 * fastest:.2f}-{1e3 * slowest:.2f}"
            found.append(f"{1e3 * median:.2f} ({spread})")
        else:
            print(f"{name} failed: {side.get('failed', 'not run')}")
            found.append("failed")
    return found


def print_images(row: Row) -> None:
    """Prints images per second of each side, and the ratios to ours."""
    for name, speed in row["images_per_second"].items():
        ratio = row.get(f"{name}_over_ours")
        beside_ours = f", ours has {ratio:.2f} times that" if ratio else ""
        print(f"{name}: {speed:,.{0 if speed >= 100 else 1}f} images/s{beside_ours}")


def print_memory(sides: Mapping[str, Row]) -> None:
    """Prints the peak memory of each side that reports it."""
    known = {name: side.get("memory_bytes") for name, side in sides.items()}
    cells = (f"{name} {bytes_ / 1e9:.2f}" for name, bytes_ in known.items() if bytes_)
    print(f"{'peak memory, GB:':>18} " + ", ".join(cells), flush=True)
