"""Times CaCo on one GPU beside PyTorch, in a few minutes, without network.

    python -m experiments.benchmarks.gpu [--out=FILE.json] [--parts=step,bank,cifar]
        [--budget_seconds=400] [--profile=FOLDER] [--smoke]

It needs jax, flax, optax and torch, and installs nothing. CIFAR's part and the step
with augmentation also need dm-pix and are skipped without it. Each side runs in a
process of its own, one after the other; a failure is reported beside its side. Results
are written after each case. Each part has a share of the budget; cases that no longer
fit into it are skipped and named: `--parts=bank` alone then has all of it.

step: CaCo's whole step, ResNet-50, 224 pixels, two views, bfloat16; at a batch of 256
and at the largest that fits. bank: the two-view bank game alone, beside the limit that
its five products of matrices set. cifar: SimCLR with a ResNet-18 on 32 pixels, views
made on the device, beside a DataLoader's.
"""

import argparse
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.benchmarks import comparison, timing
from experiments.benchmarks.comparison import OURS, TORCH, Row
from experiments.benchmarks.workers import Candidate, Crew, Failed

FULL: dict[str, Any] = {
    "runs": 7,
    "limit_seconds": 240.0,
    "compiled": True,
    "dtype": "bfloat16",
    "product": 8192,
    "bank": {
        "queries": (256, 1024, 4096),
        "entries": (2**16, 2**20),
        "dim": (128, 256),
    },
    "step": {
        "pixels": 224,
        "network": {
            "stage_sizes": (3, 4, 6, 3),
            "block": "bottleneck",
            "width": 64,
            "stem": "imagenet",
        },
        "widths": (2048, 2048, 256),
        "entries": 65536,
        "temperature": 0.08,
    },
    "batch": 256,
    "cifar": {
        "batch": 256,
        "images": 50_000,
        "network": {
            "stage_sizes": (2, 2, 2, 2),
            "block": "basic",
            "width": 64,
            "stem": "small",
        },
        "widths": (512, 128),
        "temperature": 0.5,
    },
}
_TINY = {"stage_sizes": (1,), "block": "basic", "width": 4, "stem": "small"}
SMOKE: dict[str, Any] = {
    "runs": 2,
    "limit_seconds": 120.0,
    "compiled": False,
    "dtype": "float32",
    "product": 64,
    "bank": {"queries": (8,), "entries": (64, 128), "dim": (16,)},
    "step": {
        **FULL["step"],
        "pixels": 16,
        "network": _TINY,
        "widths": (8, 8, 4),
        "entries": 64,
    },
    "batch": 4,
    "cifar": {**FULL["cifar"], "batch": 4, "images": 16, "network": _TINY}
    | {"widths": (8, 4)},
}
TEMPERATURES = {"temperature": 0.08, "bank_temperature": 0.08}
# products: positives, scores, gradient of queries; scores again, move of the bank
PRODUCTS = 5
SHARES = {"step": 0.45, "bank": 0.4, "cifar": 0.15}  # of the budget
MEMORY_SHARE = (
    0.88  # share of the device's memory that the largest batch may plan to use
)


class Session:
    """Shared state of the parts: sizes, processes, clock, results."""

    def __init__(self, options: argparse.Namespace, crew: Crew) -> None:
        self.sizes = SMOKE if options.smoke else FULL
        self.crew, self.profile = crew, options.profile
        self.workers = 0 if options.smoke else max(timing.cores() - 1, 1)
        self._ends = deadlines(options.parts.split(","), options.budget_seconds)
        self._end = max(self._ends.values())
        self._out = options.out
        self.figures: dict[str, Any] = {"settings": {**vars(options), **self.sizes}}

    def begin(self, name: str) -> None:
        """Starts the clock of a part."""
        self._end = self._ends[name]

    def late(self) -> bool:
        """Whether the part's budget is spent."""
        return time.monotonic() > self._end

    def compare(self, candidates: Mapping[str, Candidate]) -> dict[str, Row]:
        """Times the candidates in turn, and then alone those that lacked memory."""
        sides = self.crew.compare(candidates, runs=self.sizes["runs"])
        for name, candidate in candidates.items():
            if len(candidates) > 1 and lacked_memory(sides[name]):
                sides[name] = self.alone(name, candidate)
        return sides

    def alone(self, name: str, candidate: Candidate) -> Row:
        """Times one candidate with the device's memory to itself."""
        self.crew.stop_all()
        side = self.crew.compare({name: candidate}, runs=self.sizes["runs"])[name]
        self.crew.stop_all()
        return side | {"alone": True}

    def save(self) -> None:
        """Writes the results so far."""
        if self._out:
            timing.write_json(self._out, self.figures)


def deadlines(parts: Sequence[str], seconds: float) -> dict[str, float]:
    """Deadline of each part; unused time passes to the next part."""
    whole, spent, ends = sum(SHARES[part] for part in parts), 0.0, {}
    for part in parts:
        spent += SHARES[part] / whole
        ends[part] = time.monotonic() + spent * seconds
    return ends


def lacked_memory(side: Row) -> bool:
    """Whether it ran out of memory, which another process may have held."""
    failed = side.get("failed", "")
    return any(sign in failed for sign in ("memory", "EXHAUSTED", "ALLOC_FAILED"))


def main() -> None:
    """Measures part by part, prints and, with --out, saves."""
    options = _options()
    # Before any process imports JAX: memory is allocated on demand, up to all of the
    # GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    if options.profile:  # operations inside a CUDA graph have no names
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_enable_command_buffer="
    if (
        options.smoke
    ):  # with other work on the machine, PyTorch's threads wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    sizes = SMOKE if options.smoke else FULL
    with Crew(limit_seconds=sizes["limit_seconds"]) as crew:
        session = Session(options, crew)
        describe(session)
        for name in options.parts.split(","):
            print(f"\n{name}", flush=True)
            session.begin(name)
            rows = session.figures.setdefault(name, {})
            for case, row in PARTS[name](session):
                rows[case] = row
                session.save()
            if not options.smoke:  # small ones may stay, because processes start slowly
                crew.stop_all()


def describe(session: Session) -> None:
    """The machine, and its speed of matrix products."""
    found = session.crew.build(
        {"ours": Candidate(f"{OURS}:machine", {})}, round_seconds=0.0
    )["ours"]
    session.figures["machine"] = found
    print({key: found.get(key) for key in ("devices", "processor", "cores", "failed")})
    print(found.get("versions"))
    size = session.sizes["product"]
    rates = session.figures.setdefault("products_flops", {})
    for dtype in ("bfloat16", "float32"):
        product = Candidate(f"{OURS}:product", {"size": size, "dtype": dtype})
        row = session.compare({"ours": product})["ours"]
        if "seconds" in row:
            rates[dtype] = 2 * size**3 / row["seconds"].median
            print(f"products in {dtype}: {rates[dtype] / 1e12:.2f} TFLOP/s", flush=True)
    session.save()


# The bank game.


def bank(session: Session) -> Iterator[tuple[str, Row]]:
    """The game at all sizes in four versions; ours also at the default precision."""
    sizes = session.sizes["bank"]
    heads = ("limit", "ours", "default", "tuned", "original", "ours/limit")
    print(comparison.line("N, K, D", *heads))
    for dim, entries, queries in itertools.product(
        sizes["dim"], sizes["entries"], sizes["queries"]
    ):
        case = f"{queries} {entries} {dim}"
        if session.late():
            yield case, _left_out(case)
            continue
        shape = {"queries": queries, "entries": entries, "dim": dim, **TEMPERATURES}
        sides = session.compare(
            {
                "ours": Candidate(f"{OURS}:bank", shape),
                "default": Candidate(f"{OURS}:bank", {**shape, "precision": "default"}),
                **comparison.torch_ways(
                    "bank", shape, compiled=session.sizes["compiled"]
                ),
            }
        )
        limit = _bank_limit(session, queries, entries, dim)
        row = comparison.with_ratios(sides) | {"limit_seconds": limit}
        if limit and "seconds" in sides["ours"]:
            row["ours_over_limit"] = sides["ours"]["seconds"].median / limit
        print(
            comparison.line(
                case,
                f"{1e3 * limit:.2f}" if limit else "-",
                *comparison.cells(sides, "ours", "default", "tuned", "original"),
                f"{row.get('ours_over_limit', float('nan')):.1f}",
            ),
            flush=True,
        )
        comparison.print_memory(sides)
        yield case, row


def _bank_limit(session: Session, queries: int, entries: int, dim: int) -> float | None:
    """Seconds that the products alone would take in bfloat16."""
    rate = session.figures["products_flops"].get("bfloat16")
    return rate and PRODUCTS * 2 * (2 * queries) * entries * dim / rate


# CaCo's whole step.


def step(session: Session) -> Iterator[tuple[str, Row]]:
    """The step at a batch that all can hold, then at the largest batch of each."""
    batch = session.sizes["batch"]
    print(comparison.line("batch", "ours", "tuned", "original", "  (ms)"))
    sides, at_once = _beside(session, batch)
    row = comparison.with_images(comparison.with_ratios(sides), batch) | at_once
    print(
        comparison.line(
            str(batch), *comparison.cells(sides, "ours", "tuned", "original")
        )
    )
    comparison.print_images(row)
    comparison.print_memory(sides)
    yield f"batch {batch}", row
    extras: dict[str, Callable[[], Row | None]] = {
        "profile": lambda: _profile(session, batch),
        "largest batch, ours": lambda: _largest(session, "ours", sides["ours"]),
        "largest batch, tuned": lambda: _largest(session, "tuned", sides["tuned"]),
        "recolored": lambda: _recolored(session, batch),
    }
    for case, extra in extras.items():
        if session.late():
            yield case, _left_out(case)
        elif found := extra():
            yield case, found


def _beside(session: Session, batch: int) -> tuple[dict[str, Row], Row]:
    """Ours beside one other at a time, because three do not fit into memory."""
    crew, runs = session.crew, session.sizes["runs"]
    candidates = _step_candidates(session, batch)
    pair = {name: candidates[name] for name in ("ours", "tuned")}
    sides = session.compare(pair)
    crew.stop("tuned")
    sides |= crew.build({"original": candidates["original"]}, round_seconds=0.1)
    if lacked_memory(sides["original"]) or not crew.has("ours"):
        sides["original"] = session.alone("original", candidates["original"])
        return sides, {}
    turns = crew.alternate(["original", "ours"], runs=runs)
    crew.stop("original")
    sides["original"] |= turns["original"]
    return sides, {"ours_beside_original": turns["ours"]}


def _step_candidates(session: Session, batch: int) -> dict[str, Candidate]:
    shape = {**session.sizes["step"], "batch": batch}
    dtype = session.sizes["dtype"]
    return {
        "ours": Candidate(f"{OURS}:caco", {**shape, "dtype": dtype}),
        **comparison.torch_ways("caco", shape, compiled=session.sizes["compiled"]),
    }


def _ours_again(session: Session, batch: int) -> None:
    """Starts our step's process again, if it was stopped to free memory."""
    if not session.crew.has("ours"):
        ours = _step_candidates(session, batch)["ours"]
        session.crew.build({"ours": ours}, round_seconds=0.1)


def _profile(session: Session, batch: int) -> Row | None:
    """Profile of our step, by part."""
    if not session.profile:
        return None
    _ours_again(session, batch)
    try:
        parts = session.crew.ask("ours", "profile", session.profile)
    except Failed as failure:
        return {"failed": str(failure)}
    total = sum(parts.values())
    for name, seconds in parts.items():
        print(f"{name:30} {1e3 * seconds:8.2f} ms {seconds / max(total, 1e-12):6.1%}")
    return {"seconds_by_part": parts}


def _recolored(session: Session, batch: int) -> Row:
    """Cost of augmentation on the device: the step with and without it."""
    _ours_again(session, batch)
    ours = _step_candidates(session, batch)["ours"]
    with_views = ours._replace(settings={**ours.settings, "recolored": True})
    sides = session.crew.build({"recolored": with_views}, round_seconds=0.1)
    if "failed" not in sides["recolored"]:
        names = ["ours", "recolored"]
        turns = session.crew.alternate(names, runs=session.sizes["runs"])
        sides = {name: sides.get(name, {}) | turns[name] for name in names}
    print(comparison.line("", *comparison.cells(sides, *sides), "(with augmentation)"))
    return sides


def _largest(session: Session, name: str, found: Row) -> Row:
    """The speed at the largest batch that one side can hold."""
    batch = session.sizes["batch"]
    memory = found.get("memory_bytes")
    limit = session.figures["machine"].get("limit_bytes")
    if not memory or not limit:
        return {"failed": "its memory, or the device's, is not known"}
    fixed = found.get("fixed_bytes", 0)
    most = int((MEMORY_SHARE * limit - fixed) / (memory - fixed) * batch)
    row: Row = {"failed": "no batch was tried"}
    session.crew.stop_all()
    for share in (1.0, 0.85):
        larger = max(int(share * most) // 64 * 64, batch)
        candidate = _step_candidates(session, larger)[name]
        row = session.compare({name: candidate})[name]
        session.crew.stop(name)
        if "seconds" in row:
            speed = larger / row["seconds"].median
            print(f"{name}, batch {larger}: {speed:,.0f} images/s", flush=True)
            return row | {"batch": larger, "images_per_second": speed}
        print(f"{name}, batch {larger}: {row['failed']}", flush=True)
        if session.late():
            break
    return row


# CIFAR-size SimCLR.


def cifar(session: Session) -> Iterator[tuple[str, Row]]:
    """A step from images to the new parameters, views included."""
    case, shape = "simclr, resnet18", session.sizes["cifar"]
    if session.late():
        yield case, _left_out(case)
        return
    more = {"compiled": session.sizes["compiled"], "workers": session.workers}
    sides = session.compare(
        {
            "ours": Candidate(
                f"{OURS}:simclr", {**shape, "dtype": session.sizes["dtype"]}
            ),
            "tuned": Candidate(f"{TORCH}:simclr", {**shape, **more}),
        }
    )
    print(comparison.line("batch", "ours", "tuned", "  (ms)"))
    print(
        comparison.line(str(shape["batch"]), *comparison.cells(sides, "ours", "tuned"))
    )
    row = comparison.with_images(comparison.with_ratios(sides), shape["batch"])
    comparison.print_images(row)
    yield case, row


PARTS: dict[str, Callable[[Session], Iterator[tuple[str, Row]]]] = {
    "step": step,
    "bank": bank,
    "cifar": cifar,
}


def _left_out(case: str) -> Row:
    print(f"{case}: left out, the budget is spent", flush=True)
    return {"left_out": "the budget was spent"}


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="JSON file to write the results to.")
    parser.add_argument("--budget_seconds", type=float, default=400.0)
    parser.add_argument("--profile", help="Folder for a profile of our step.")
    parser.add_argument(
        "--smoke", action="store_true", help="Use tiny sizes, for a CPU."
    )
    return timing.parse_parts(parser, PARTS, arguments)


if __name__ == "__main__":
    main()
