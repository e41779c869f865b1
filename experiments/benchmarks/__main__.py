"""Times the library beside PyTorch on a CPU, in under 15 minutes.

    python -m experiments.benchmarks [--out=FILE.json] [--figure=FILE.png]
        [--parts=bank,encoder,cifar,data,start_up,growth] [--cores=N] [--smoke]

bank: the two-view bank game. encoder: CaCo's whole step with a ResNet-18 on 32 pixels,
with given views. cifar: SimCLR's step from images, beside a DataLoader's. data:
augmentation and decoding, beside Pillow's. start_up: from a command to its first step.
growth: time and memory against problem size, with fitted exponents and a figure. Each
library runs in a process of its own; they take turns, and results are written after
each part. On a machine with other work --cores=1 is fairer to PyTorch, whose threads
wait for each other at every operation.

`python -m experiments.benchmarks.gpu` is for one GPU.
"""

import argparse
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from caco_jax.data.sources import make_fake_set
from caco_jax.data.views import VIEWS
from experiments.benchmarks import comparison, data, growth, startup, summary, timing
from experiments.benchmarks.comparison import OURS, TORCH, Row
from experiments.benchmarks.workers import Candidate, Crew

VERSIONS = ("jax", "jaxlib", "numpy", "torch", "pillow", "opencv-python-headless")
RESNET18 = {
    "stage_sizes": (2, 2, 2, 2),
    "block": "basic",
    "width": 64,
    "stem": "small",
}
TINY = {"stage_sizes": (1,), "block": "basic", "width": 4, "stem": "small"}
FULL: dict[str, Any] = {
    "bank_runs": 9,
    "bank": {"queries": 256, "entries": 65536, "dim": 128},
    "temperatures": {"temperature": 0.08, "bank_temperature": 0.1},
    "runs": 3,
    "encoder": {
        "batch": 32,
        "pixels": 32,
        "network": RESNET18,
        "widths": (128, 128, 128),
        "entries": 4096,
        "temperature": 0.1,
    },
    "cifar": {
        "batch": 32,
        "images": 4096,
        "network": RESNET18,
        "widths": (512, 128),
        "temperature": 0.5,
    },
    "views": 256,
    "photographs": 16,
    "data_runs": 7,
    "start_up": ("caco_digits", 3),
    "sweeps": growth.SWEEPS,
    "growth_runs": 5,
}
SMOKE: dict[str, Any] = {
    **FULL,
    "bank_runs": 1,
    "bank": {"queries": 8, "entries": 64, "dim": 16},
    "runs": 1,
    "encoder": {
        **FULL["encoder"],
        "batch": 4,
        "pixels": 16,
        "network": TINY,
        "widths": (8, 8, 4),
        "entries": 64,
    },
    "cifar": {**FULL["cifar"], "batch": 4, "images": 16, "network": TINY},
    "views": 8,
    "photographs": 1,
    "data_runs": 1,
    "start_up": ("caco_digits:smoke", 1),
    "sweeps": growth.SMOKE_SWEEPS,
    "growth_runs": 1,
}


def main() -> None:
    """Measures all parts, prints and, with --out, saves."""
    options = _options()
    if (
        options.smoke
    ):  # with other work on the machine, PyTorch's threads wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.cores:  # before any library starts its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.cores :])
    # The CPU, also on a machine with accelerators; the processes inherit it.
    os.environ["JAX_PLATFORMS"] = "cpu"
    sizes = SMOKE if options.smoke else FULL
    begun = time.monotonic()
    figures: Row = {"settings": vars(options), "machine": timing.machine(VERSIONS)}
    print(figures["machine"], flush=True)
    for name in options.parts.split(","):
        print(f"\n{name}: {DESCRIPTIONS[name]}", flush=True)
        figures[name] = PARTS[name](sizes)
        figures["load_average_at_the_end"] = os.getloadavg()[0]
        if options.out:
            pathlib.Path(options.out).parent.mkdir(parents=True, exist_ok=True)
            timing.write_json(options.out, figures)
    if options.figure and "growth" in figures:
        growth.plot(figures["growth"], options.figure)
    print(f"\n{summary.table(figures)}")
    print(f"\n{time.monotonic() - begun:.0f} s in all")


def bank(sizes: Mapping[str, Any]) -> Row:
    """The bank game, ours beside both versions in PyTorch."""
    shape = {**sizes["bank"], **sizes["temperatures"]}
    sides = _compare({"ours": Candidate(f"{OURS}:bank", shape)}, "bank", shape, sizes)
    return comparison.with_ratios(sides)


def encoder(sizes: Mapping[str, Any]) -> Row:
    """CaCo's step on given views, in float32."""
    shape = sizes["encoder"]
    ours = Candidate(f"{OURS}:caco", {**shape, "dtype": "float32"})
    sides = _compare({"ours": ours}, "caco", shape, sizes)
    row = comparison.with_images(comparison.with_ratios(sides), shape["batch"])
    comparison.print_images(row)
    return row


def cifar(sizes: Mapping[str, Any]) -> Row:
    """SimCLR's step from images in memory, views included."""
    shape = sizes["cifar"]
    loader = {"compiled": False, "workers": max(timing.cores() - 1, 1)}
    candidates = {
        "ours": Candidate(f"{OURS}:simclr", {**shape, "dtype": "float32"}),
        "tuned": Candidate(f"{TORCH}:simclr", {**shape, **loader}),
    }
    sides = _timed(candidates, sizes["runs"])
    row = comparison.with_images(comparison.with_ratios(sides), shape["batch"])
    comparison.print_images(row)
    return row


def _compare(
    ours: Mapping[str, Candidate],
    function: str,
    shape: Mapping[str, Any],
    sizes: Mapping[str, Any],
) -> dict[str, Row]:
    candidates = {**ours, **comparison.torch_ways(function, shape, compiled=False)}
    runs = sizes["bank_runs" if function == "bank" else "runs"]
    sides = _timed(candidates, runs)
    ratios = comparison.with_ratios(sides)
    for name in sides:
        if f"{name}_over_ours" in ratios:
            print(f"{name} / ours, medians: {ratios[f'{name}_over_ours']:.2f}")
    return sides


def _timed(candidates: Mapping[str, Candidate], runs: int) -> dict[str, Row]:
    """Times the candidates in turn, and prints them."""
    with Crew(limit_seconds=300) as crew:
        sides = crew.compare(candidates, runs=runs)
    able = [name for name, side in sides.items() if "seconds" in side]
    print(comparison.line("", *candidates))
    print(comparison.line("ms", *comparison.cells(sides, *candidates)))
    if timing.cores() == 1:
        busy = comparison.cells(sides, *able, measure="processor_seconds")
        print(comparison.line("processor's ms", *busy), flush=True)
    return sides


def images(sizes: Mapping[str, Any]) -> Row:
    """Augmentation on the device and decoding on the host."""
    runs = sizes["data_runs"]
    pixels = make_fake_set(f"32x32x3x{sizes['views']}").train_examples
    rows = {
        name: data.compare(VIEWS[name](**fields), pixels, runs=runs, name=name)
        for name, fields in data.RECIPES.items()
    }
    decoding = data.decoding(count=sizes["photographs"], runs=runs)
    return {"augmentation": rows, "decoding": decoding}


def start_up(sizes: Mapping[str, Any]) -> Row:
    """From a command to the end of its first step."""
    recipe, runs = sizes["start_up"]
    return startup.measure(recipe, runs=runs)


def grow(sizes: Mapping[str, Any]) -> Row:
    """Time and memory against problem size."""
    return growth.measure(sizes["sweeps"], runs=sizes["growth_runs"])


PARTS: dict[str, Callable[[Mapping[str, Any]], Row]] = {
    "bank": bank,
    "encoder": encoder,
    "cifar": cifar,
    "data": images,
    "start_up": start_up,
    "growth": grow,
}
DESCRIPTIONS = {
    "bank": "two views of 256 queries, 65,536 entries, 128 dimensions",
    "encoder": "CaCo's step, ResNet-18 of width 64, 32 pixels, two views of 32 images",
    "cifar": "SimCLR's step from images, the same network, 32 images",
    "data": "views and crops, beside Pillow's",
    "start_up": "from a command to the end of its first step",
    "growth": "time and memory as the work grows",
}


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", help="JSON file to write the results to.")
    parser.add_argument(
        "--figure", help="PNG file of time and memory against problem size."
    )
    parser.add_argument(
        "--cores", type=int, default=0, help="Number of cores to use; 0 uses all."
    )
    parser.add_argument(
        "--smoke", action="store_true", help="Use tiny sizes and one run."
    )
    return timing.parse_parts(parser, PARTS, arguments)


if __name__ == "__main__":
    main()
