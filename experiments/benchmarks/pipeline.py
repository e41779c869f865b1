"""Times training steps fed by the host pipeline, beside the same steps fed from memory.

    JAX_PLATFORMS=cpu python -m experiments.benchmarks.pipeline [--workers=1,2] \
        [--recipe=configs/NAME.py] [--batch=N] [--out=FILE.json] [--smoke]

JPEGs of 500×375 become crops of 224 for each view. Both sides run the same compiled
step in the same training loop, which flips and recolours on the device; for one side
the crops are on the device already. On a CPU step and workers would compete for cores,
which does not happen with an accelerator: there each side gets its own cores.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from sklearn import datasets

from caco_jax.config.build import build_run
from caco_jax.config.recipe import load_recipe, override
from caco_jax.config.sections import experiment_config
from caco_jax.data.dataset import RecordDataset
from caco_jax.data.records import Record
from caco_jax.runs.pretraining import Pretraining
from caco_jax.training import feeds, loop
from experiments.benchmarks import timing

RECIPE = "configs/simclr_imagenet.py:smoke"
MOST_GROWTH = 0.05


class Jpegs:
    """Records in memory: a few files, repeated."""

    def __init__(self, files: list[bytes], count: int) -> None:
        self._files, self._count = files, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        return Record(self._files[index % len(self._files)], -1, f"JPEG {index}")


def make_jpegs(count: int) -> list[bytes]:
    """Parts of two photographs, 500×375, at quality 90."""
    rng = np.random.default_rng(0)
    photos = datasets.load_sample_images().images
    files = []
    for index in range(count):
        photo = photos[index % len(photos)]
        top = rng.integers(0, photo.shape[0] - 374)
        left = rng.integers(0, photo.shape[1] - 499)
        part = photo[top : top + 375, left : left + 500, ::-1]
        encoded = cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        files.append(encoded.tobytes())
    return files


class Sizes(NamedTuple):
    """Sizes of the measurement."""

    steps: int  # steps in a timed round of either side
    rounds: int
    # steps before a streamed round, because the buffers are full after the other side
    settle: int
    drained: int  # steps whose crops are timed without training


def main() -> None:
    """Measures, prints and, with --out, saves."""
    options = _options()
    sizes = Sizes(1, 1, 1, 1) if options.smoke else Sizes(8, 9, 4, 60)
    counts = [int(count) for count in options.workers.split(",")]
    host, device = share_cores(max(1, *counts))
    files = make_jpegs(4 if options.smoke else 16)
    with pinned(device):  # before JAX starts its threads
        machine = timing.machine(("jax", "jaxlib", "grain", "opencv-python-headless"))
        rows = {n: compare(options, files, n, sizes, host) for n in counts}
    needed = min(
        (n for n, row in rows.items() if row["growth"] <= MOST_GROWTH), default=None
    )
    print(f"workers needed for at most {MOST_GROWTH:.0%} of growth: {needed}")
    figures = {
        "settings": {**vars(options), **sizes._asdict()},
        "mean_jpeg_bytes": statistics.mean(map(len, files)),
        "cores": {"of_workers": sorted(host), "of_the_step": sorted(device)},
        "machine": machine,
        "by_workers": rows,
        "workers_needed": needed,
    }
    if options.out:
        timing.write_json(options.out, figures)


def share_cores(workers: int) -> tuple[set[int], set[int]]:
    """Cores for the workers, at most half of all, and the others for the step.

    Empty if the step runs on an accelerator, or there is one core.
    """
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu"
    cores = sorted(os.sched_getaffinity(0)) if on_cpu else []
    if len(cores) < 2:
        return set(), set()
    cut = min(workers, len(cores) // 2)
    return set(cores[:cut]), set(cores[cut:])


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Threads and processes started inside the block run on these cores, if any."""
    before = os.sched_getaffinity(0) if cores else cores
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, before)


def compare(
    options: argparse.Namespace,
    files: list[bytes],
    workers: int,
    sizes: Sizes,
    host: set[int],
) -> dict[str, Any]:
    """Times rounds of both sides in turn, and prints them."""
    streamed_steps = sizes.settle + sizes.steps
    steps = 1 + sizes.rounds * streamed_steps + sizes.settle + sizes.drained
    run = make_run(options, Jpegs(files, steps * options.batch), workers)
    bad = feeds.count_bad(run.data)
    open_feed = run.feeds(bad)
    with jax.set_mesh(run.mesh), contextlib.ExitStack() as stack:
        key = run.keys.order
        with pinned(host):
            feed = stack.enter_context(open_feed(key, steps=steps, epochs=1))
            _, inputs = next(feed.epochs)
            held = next(inputs)
        state = run.place(run.initial_state())
        seconds = timed_rounds(run, state, feed, held, inputs, sizes)
        host_speed = options.batch / drain(inputs, sizes)
    growth = statistics.median(
        streamed / resident - 1
        for resident, streamed in zip(*seconds.values(), strict=True)
    )
    timings = {
        name: timing.Timing(
            statistics.median(times), min(times), max(times), len(times)
        )
        for name, times in seconds.items()
    }
    speed = options.batch / timings["resident"].median
    print(
        f"{workers} workers, which make crops of {host_speed:.0f} images/s; a step of "
        f"{options.batch} images takes {speed:.0f} images/s"
    )
    print(timing.table(timings))
    print(f"growth, median over rounds: {growth:+.1%}")
    return {
        "seconds_a_step": timings,
        "growth": growth,
        "images_per_second": {"step": speed, "workers": host_speed},
        "load_average_1_minute": os.getloadavg()[0],
    }


def make_run(options: argparse.Namespace, records: Jpegs, workers: int) -> Pretraining:
    """The parts of the recipe at 224 pixels, with these records."""
    recipe = override(
        load_recipe(options.recipe),
        [
            "data.view_size=224",
            "encoder.stem='imagenet'",
            f"training.batch_size={options.batch}",
        ],
    )
    images = RecordDataset("jpegs", train=records, workers=workers)
    return build_run(experiment_config(recipe), data=images)


def timed_rounds(
    run: Pretraining,
    state: Any,
    feed: feeds.Feed,
    held: Any,
    inputs: Iterator[Any],
    sizes: Sizes,
) -> dict[str, list[float]]:
    """Seconds per step of each round, from resident crops and from the stream."""

    def phases() -> Iterator[tuple[int, Iterator[Any]]]:
        yield 0, itertools.repeat(held, 2)  # compiles
        for _ in range(sizes.rounds):
            yield 1, itertools.repeat(held, sizes.steps)
            yield 0, itertools.islice(inputs, sizes.settle)
            yield 2, itertools.islice(inputs, sizes.steps)

    names = {1: "resident", 2: "streamed"}
    seconds: dict[str, list[float]] = {name: [] for name in names.values()}
    throughput = loop.Throughput()
    dispatch = run.dispatch(run.training_step(), state, feed.layout)
    turns = feed._replace(epochs=phases())
    batch_size = run.training.batch_size
    done = loop.run_phase(dispatch, state, turns, throughput, batch_size=batch_size)
    before = 0.0
    for number, *_ in done:
        spent, before = throughput.seconds - before, throughput.seconds
        if number - 1 in names:
            seconds[names[number - 1]].append(spent / sizes.steps)
    return seconds


def drain(inputs: Iterator[Any], sizes: Sizes) -> float:
    """Seconds for each step's crops, without training."""
    for _ in itertools.islice(inputs, sizes.settle):
        pass
    begun = time.perf_counter()
    for _ in itertools.islice(inputs, sizes.drained):
        pass
    return (time.perf_counter() - begun) / sizes.drained


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workers", default="1,2", help="Numbers of worker processes; 0 uses threads."
    )
    parser.add_argument("--recipe", default=RECIPE, help="Recipe to train.")
    parser.add_argument("--batch", type=int, default=8, help="Images in one step.")
    parser.add_argument("--out", help="JSON file to write the results to.")
    parser.add_argument(
        "--smoke", action="store_true", help="Use few steps and two rounds."
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
