"""The summary table of the CPU benchmarks."""

from collections.abc import Iterator, Mapping
from typing import Any

HEADS = ("what", "ours", "beside", "theirs", "ours is faster by")
Line = tuple[str, str, str, str, str]


def table(figures: Mapping[str, Any]) -> str:
    """One line for each comparison, as Markdown.

    Args:
        figures: results of `experiments.benchmarks`, of the measured parts.
    """
    lines = [HEADS, ("---",) * len(HEADS), *_lines(figures)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _lines(figures: Mapping[str, Any]) -> Iterator[Line]:
    for name, what in (
        ("bank", "bank game"),
        ("encoder", "CaCo's step, ResNet-18"),
        ("cifar", "SimCLR's step from images, ResNet-18"),
    ):
        yield from _beside_torch(what, figures.get(name, {}))
    views = figures.get("data", {}).get("augmentation", {})
    for name, row in views.items():
        ours, theirs = row["seconds"]["ours"], row["seconds"]["pillow"]
        yield _line(f"two views of a batch, {name}", "Pillow, one core", ours, theirs)
    decoded = figures.get("data", {}).get("decoding", {}).get("seconds", {})
    for name in ("one crop", "two crops") if decoded else ():
        ours, theirs = decoded[f"{name}: ours"], decoded[f"{name}: Pillow"]
        yield _line(f"JPEG to {name}, one core", "Pillow, one core", ours, theirs)
    starts = figures.get("start_up", {}).get("seconds", {})
    if starts:
        kept, none = starts["filled cache"]["median"], starts["no cache"]["median"]
        times = f"{kept:.1f} s", "no cache", f"{none:.1f} s", f"{none / kept:.2f}"
        yield ("command to first step, filled cache", *times)


def _beside_torch(what: str, row: Mapping[str, Any]) -> Iterator[Line]:
    for way in ("tuned", "original"):
        if f"{way}_over_ours" in row:
            sides = row["ours"]["seconds"], row[way]["seconds"]
            yield _line(what, f"PyTorch, {way}", *sides)


def _line(what: str, beside: str, ours: Any, theirs: Any) -> Line:
    """A line of two timings, by their medians and spreads."""
    ratio = theirs.median / ours.median
    return what, _cell(ours), beside, _cell(theirs), f"{ratio:.2f}"


def _cell(seconds: Any) -> str:
    median, fastest, slowest = (1e3 * part for part in seconds[:3])
    return f"{median:,.1f} ms ({fastest:,.1f}-{slowest:,.1f})"
