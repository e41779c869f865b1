"""Times the evaluations, beside scikit-learn if it has the same one.

    python -m experiments.benchmarks.evaluation [--out=FILE.json] [--smoke]

kNN: 200 neighbours of 10,000 queries among 50,000 features of 512 numbers, beside
scikit-learn's brute force on the same unit rows (by Euclidean distance: the same
neighbours, and faster there than by cosine). Then ImageNet's search at a twentieth of
its rows, from a float16 bank on the host: planned memory beside what was measured.

Probe: logistic regression on 50,000 features of 512 numbers in 10 classes to
convergence, beside scikit-learn's with the same penalty and features.

Sweep: a step of one head and of 24 on a frozen ResNet-50, RandomResizedCrop and flip
included, on images smaller than ImageNet's so that the backbone does not hide the
heads.

CPU seconds are measured too; they do not depend on other work on the machine.
"""

import argparse
import functools
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from caco_jax.data.labelled import training_view
from caco_jax.data.view_kinds import Views
from caco_jax.data.views import VIEWS, make_views
from caco_jax.evaluation import linear, neighbours
from caco_jax.evaluation.features import make_view_features
from caco_jax.evaluation.heads import Protocol, Sweep
from caco_jax.evaluation.sweep import make_step
from caco_jax.nets import BACKBONES
from caco_jax.nets.encoder import Encoder
from caco_jax.nets.functions import as_encoder
from caco_jax.nets.heads import mlp_projector
from experiments.benchmarks import timing

SIZES: dict[str, dict[str, Any]] = {
    "knn": {"rows": 50_000, "queries": 10_000, "width": 512, "k": 200},
    "streamed": {"rows": 64_000, "queries": 2_500, "width": 2048, "k": 200},
    "probe": {"rows": 50_000, "width": 512, "classes": 10},
    "sweep": {"backbone": "resnet50", "pixels": 64, "batch": 64, "classes": 100},
}
SMOKE: dict[str, dict[str, Any]] = {
    "knn": {"rows": 300, "queries": 40, "width": 8, "k": 5},
    "streamed": {"rows": 200, "queries": 30, "width": 16, "k": 5},
    "probe": {"rows": 300, "width": 8, "classes": 3},
    "sweep": {"backbone": "resnet_tiny", "pixels": 8, "batch": 4, "classes": 3},
}
IMAGENET = {"rows": 1_281_167, "queries": 50_000, "width": 2048, "k": 200}
RATES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
DECAYS = (0.0, 1e-6, 1e-5, 1e-4)
TEST_ROWS = 10_000
VERSIONS = ("jax", "jaxlib", "numpy", "scikit-learn")


def main() -> None:
    """Measures, prints and, with --out, saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="JSON file to write the results to.")
    parser.add_argument(
        "--smoke", action="store_true", help="Use tiny sizes and one run."
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    sizes, runs = (SMOKE, 1) if options.smoke else (SIZES, 5)
    figures: dict[str, Any] = {
        "settings": {"sizes": sizes, "runs": runs},
        "machine": timing.machine(VERSIONS),
    }
    warm_up()
    for name in options.parts:
        load = timing.machine()["load_average_1_minute"]
        print(f"{name}: {sizes[name]}, {timing.cores()} cores, load average {load:.1f}")
        figures[name] = PARTS[name](runs=runs, **sizes[name])
    if options.out:
        timing.write_json(options.out, figures)


def warm_up() -> None:
    """Compiles a search, so that measurements do not include the compiler's memory."""
    rows = np.eye(3, dtype=np.float32)
    neighbours.nearest_neighbours(rows, rows, k=1, cosine=True)


def knn(*, runs: int, rows: int, queries: int, width: int, k: int) -> dict[str, Any]:
    """Times the search beside scikit-learn's, and measures its memory."""
    rng = np.random.default_rng(0)
    bank, asked = (
        unit(rng.standard_normal((n, width), dtype=np.float32)) for n in (rows, queries)
    )
    ours = functools.partial(
        neighbours.nearest_neighbours, asked, bank, k=k, cosine=True
    )
    _, grown = peak_growth(lambda: jax.block_until_ready(ours()))
    theirs = NearestNeighbors(n_neighbors=k, algorithm="brute", n_jobs=-1).fit(bank)
    figures = compare(
        {"ours": ours, "scikit-learn": lambda: theirs.kneighbors(asked)}, runs=runs
    )
    agree = np.mean(np.asarray(ours()[1]) == theirs.kneighbors(asked)[1])
    print(f"{agree:.2%} of the neighbours at the same place")
    inputs = bank.nbytes + asked.nbytes
    print(f"memory: {grown / 1e6:,.0f} MB beyond inputs of {inputs / 1e6:,.0f} MB")
    return figures | {
        "same_place": float(agree),
        "memory_bytes": grown,
        "input_bytes": inputs,
    }


def streamed(
    *, runs: int, rows: int, queries: int, width: int, k: int
) -> dict[str, Any]:
    """Searches a part of ImageNet's size, and extrapolates to all of it."""
    del runs  # once, because only the memory is measured
    rng = np.random.default_rng(0)
    asked = rng.standard_normal((queries, width), dtype=np.float32)
    bank = np.empty((rows, width), np.float16)
    for block in np.array_split(bank, max(rows // 1000, 1)):
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)
    start = time.perf_counter()
    _, grown = peak_growth(
        lambda: jax.block_until_ready(
            neighbours.nearest_neighbours(asked, bank, k=k, cosine=True)
        )
    )
    seconds = time.perf_counter() - start
    planned = planned_bytes(rows=rows, queries=queries, width=width, k=k)
    whole = planned_bytes(**IMAGENET)
    host = 2 * IMAGENET["rows"] * width
    print(
        f"{seconds:.1f} s with compiling; memory beyond the inputs: planned "
        f"{planned / 1e6:,.0f} MB, measured {grown / 1e6:,.0f} MB; the matrix of all "
        f"similarities would have {4 * rows * queries / 1e6:,.0f} MB"
    )
    print(
        f"planned for {IMAGENET['rows']:,} x {IMAGENET['queries']:,} x {width}: "
        f"{whole / 1e6:,.0f} MB on the device, beside {host / 1e6:,.0f} MB of bank on "
        f"the host; the matrix would have "
        f"{4 * IMAGENET['rows'] * IMAGENET['queries'] / 1e9:,.0f} GB"
    )
    return {
        "seconds": seconds,
        "planned_bytes": planned,
        "measured_bytes": grown,
        "imagenet_planned_bytes": whole,
        "imagenet_bank_bytes": host,
    }


def planned_bytes(*, rows: int, queries: int, width: int, k: int) -> int:
    """Planned memory of a search of a float16 bank on one device."""
    plan = neighbours.make_plan(queries, rows, width, 1)
    return neighbours.memory_bytes(plan, width, k=k, bank_itemsize=2)


def probe(*, runs: int, rows: int, width: int, classes: int) -> dict[str, Any]:
    """Times the probe beside scikit-learn's, at the same optimum."""
    features, labels = correlated_features(rows + TEST_ROWS, width, classes)
    mean, scale = features[:rows].mean(axis=0), features[:rows].std(axis=0)
    values = (features - mean) / scale
    on_device, on_labels = jnp.asarray(features), jnp.asarray(labels)
    train, test = (
        (on_device[:rows], on_labels[:rows]),
        (on_device[rows:], on_labels[rows:]),
    )
    theirs = LogisticRegression(C=1 / (linear.L2 * rows), max_iter=1000)

    def ours() -> linear.LinearModel:
        return linear.fit_logistic_regression(*train, num_classes=classes)

    threads = fewest_seconds(theirs, values[:rows], labels[:rows])

    def scikit_learn() -> None:
        with threadpool_limits(threads):
            theirs.fit(values[:rows], labels[:rows])

    figures = compare({"ours": ours, "scikit-learn": scikit_learn}, runs=runs)
    found = {
        "ours": linear.accuracy(ours(), *test),
        "scikit-learn": float(theirs.score(values[rows:], labels[rows:])),
    }
    print(
        f"accuracy {found['ours']:.2%}, scikit-learn's {found['scikit-learn']:.2%} (it "
        f"with {threads} threads, of 1 and {timing.cores()} the faster; its features "
        "standardised beforehand)"
    )
    return figures | {"accuracy": found, "scikit_learn_threads": threads}


def fewest_seconds(model: LogisticRegression, values: Any, labels: Any) -> int:
    """The number of threads with the fastest first iterations of scikit-learn."""
    few = LogisticRegression(C=model.C, max_iter=2)
    seconds = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for threads in (1, timing.cores()):
            with threadpool_limits(threads):
                start = time.perf_counter()
                few.fit(values, labels)
                seconds[threads] = time.perf_counter() - start
    return min(seconds, key=lambda threads: seconds[threads])


def correlated_features(
    rows: int, width: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rectified features with a decreasing spectrum, as of networks, and classes."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((width, width)) / np.arange(1, width + 1) ** 0.5
    centres = rng.standard_normal((classes, width))
    labels = rng.integers(0, classes, rows)
    hidden = 2.2 * rng.standard_normal((rows, width)) + 0.35 * centres[labels]
    return np.maximum(hidden @ mix.T, 0).astype(np.float32), labels


def sweep(
    *, runs: int, backbone: str, pixels: int, batch: int, classes: int
) -> dict[str, Any]:
    """Times a step of one head and of many."""
    encoder = as_encoder(Encoder(BACKBONES[backbone](), mlp_projector(8, 8)))
    shape = (batch, pixels, pixels, 3)
    example = jnp.zeros((2, *shape[1:]))
    network = jax.jit(encoder.init)(jax.random.key(0), example)
    recipe = VIEWS["moco_v2"](size_pixels=pixels)
    views = make_views(
        Views((training_view(recipe),), mean=recipe.mean, std=recipe.std)
    )
    view_features = make_view_features(encoder, views)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8))
    labels = jnp.asarray(rng.integers(0, classes, batch))

    def stepper(protocol: Protocol) -> Callable[[], object]:
        heads = Sweep(protocol, steps_per_epoch=1000)
        shapes = jax.eval_shape(view_features, network, jax.random.key(0), images)
        width = shapes.shape[1]
        state = heads.init(jax.random.key(1), features=width, num_classes=classes)
        step = make_step(heads, view_features)

        def one() -> jax.Array:
            nonlocal state
            state, losses = step(state, 0, network, jax.random.key(2), images, labels)
            return losses

        return one

    many = Protocol("sgd", RATES, DECAYS)
    count = len(RATES) * len(DECAYS)
    candidates = {
        "one head": stepper(Protocol("sgd", RATES[:1], DECAYS[:1])),
        f"{count} heads": stepper(many),
    }
    figures = compare(candidates, runs=runs)
    print(f"{backbone}, {batch} images of {pixels}x{pixels}, {classes} classes")
    return figures


def compare(
    candidates: Mapping[str, Callable[[], object]], *, runs: int
) -> dict[str, Any]:
    """Times two candidates in turn, and prints them and the second over the first."""
    timings = timing.alternate(candidates, runs=runs)
    print(timing.table(timings))
    names = list(candidates)
    work = {name: processor_seconds(candidates[name]) for name in names}
    first, second = (timings[name].median for name in names)
    worked = work[names[1]] / work[names[0]]
    print(
        f"{names[1]} / {names[0]}: {second / first:.2f} by the clock (medians), "
        f"{worked:.2f} by the processor's seconds"
    )
    ratios = {"seconds": second / first, "processor_seconds": worked}
    return {"timings": timings, "processor_seconds": work, "ratios": ratios}


def processor_seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call, over all cores."""
    start = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - start


def unit(rows: np.ndarray) -> np.ndarray:
    """The normalised rows."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def peak_growth(call: Callable[[], object]) -> tuple[object, int]:
    """The result of a call, and the growth of the process's memory in bytes."""
    before = resident_bytes()
    most, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            most.append(max(most.pop(), resident_bytes()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = call()
    finally:
        done.set()
        watcher.join()
    return result, max(most.pop(), resident_bytes()) - before


def resident_bytes() -> int:
    """The present memory of this process."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "streamed": streamed,
    "knn": knn,
    "probe": probe,
    "sweep": sweep,
}

if __name__ == "__main__":
    main()
