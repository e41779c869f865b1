"""Fault injection into pretraining: kills, signals, damaged checkpoints, full disks.

python -m experiments.benchmarks.faults --out=runs/bench/faults.json

Runs on small data sets are killed, signalled, or find their checkpoints damaged or
their disk full, and are then resumed: the end has to have the bits, metric lines and
counts of an undisturbed run.
"""

import argparse
import concurrent.futures
import functools
import itertools
import json
import pathlib
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.preemption import REQUEUE_STATUS
from caco_jax.runs.workdir import Workdir
from experiments.benchmarks import fault_disks, saving
from experiments.benchmarks.fault_runs import EPOCHS, METHODS, Runs, same_end
from experiments.benchmarks.timing import machine, write_json

# Phase to wait for, largest number of times, and largest extra delay in seconds.
MOMENTS: Mapping[str, tuple[str | None, int, float]] = {
    "start": (None, 0, 4.0),
    "start-up": ("start-up", 1, 1.0),
    "step": ("step", 20, 0.1),
    "save": ("save", EPOCHS, 0.3),
    "evaluation": ("evaluation", EPOCHS, 0.3),
}
_END_SECONDS = 10
_TRIES = 20
_PACKAGES = (
    *("jax", "jaxlib", "numpy", "flax", "optax"),
    *("orbax-checkpoint", "tensorstore", "grain"),
)


def hits(
    runs: Runs,
    number: signal.Signals,
    count: int,
    *,
    processes: int,
    methods: Sequence[str] = METHODS,
    moments: Sequence[str] = tuple(MOMENTS),
    seed: int = 0,
) -> dict[str, Any]:
    """Sends a signal to many runs, each at another moment, and resumes them.

    Args:
        runs: folder and flags of the runs.
        number: SIGKILL, or a signal that can be handled.
        count: of runs; they go through all methods and all moments.
        processes: at the same time.
        methods: of `METHODS`.
        moments: of `MOMENTS`.
        seed: of what is drawn.
    """
    for method in methods[:count]:
        runs.reference(method)
    pairs = zip(itertools.cycle(methods), itertools.cycle(moments), range(count))
    one = functools.partial(_hit, runs, number, seed)
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        cases = list(pool.map(lambda pair: one(*pair), pairs))
    found = {
        "runs": count,
        "same_end": sum(case["same_end"] for case in cases),
        "clean": sum(case["clean"] for case in cases),
        "left_an_unfinished_save": sum(case["unfinished"] for case in cases),
    }
    if number != signal.SIGKILL:
        in_time = [case["seconds"] <= _END_SECONDS for case in cases]
        found["requeue_in_time"] = sum(
            good and case["status"] == REQUEUE_STATUS
            for good, case in zip(in_time, cases, strict=True)
        )
        found["saved_on_the_way"] = sum(case["saved"] for case in cases)
        found["slowest_seconds"] = max(case["seconds"] for case in cases)
    return found | {"cases": cases}


def _hit(
    runs: Runs, number: signal.Signals, seed: int, method: str, moment: str, index: int
) -> dict[str, Any]:
    """One run: interrupted, then resumed."""
    rng = random.Random(f"{seed} {number} {index}")
    workdir = runs.root / f"{number.name}-{index}"
    for _ in range(_TRIES):
        shutil.rmtree(workdir, ignore_errors=True)
        phase, most, longest = MOMENTS[moment]
        occasion, delay = rng.randint(min(most, 1), most), rng.uniform(0, longest)
        with runs.started(method, workdir) as process:
            if phase is not None and not process.reach(phase, occasion):
                continue
            time.sleep(delay)
            process.send(number)
            sent = time.perf_counter()
            ended = process.wait()
            seconds = time.perf_counter() - sent
        if ended.status != 0:
            break
    else:
        raise RuntimeError(f"{method} always ended before it was hit at its {moment}")
    unfinished = [*workdir.glob("*/*.orbax-checkpoint-tmp*")]
    saved = "saved at step" in ended.stderr
    again = runs.finish(method, workdir)
    same = again.status == 0 and same_end(workdir, runs.reference(method))
    shutil.rmtree(workdir)
    return {
        "method": method,
        "moment": moment,
        "occasion": occasion,
        "delay_seconds": delay,
        "status": ended.status,
        "seconds": seconds,
        "saved": saved,
        "unfinished": bool(unfinished),
        "clean": ended.is_clean and again.is_clean,
        "same_end": same,
    }


def _flip(path: pathlib.Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _truncate(path: pathlib.Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def _remove(path: pathlib.Path, rng: random.Random) -> None:
    del rng
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _empty(path: pathlib.Path, rng: random.Random) -> None:
    del rng
    path.write_bytes(b"")


# Kind of damage, and pattern of the file; one of several is drawn.
DAMAGES: Sequence[tuple[Callable[[pathlib.Path, random.Random], None], str]] = (
    (_truncate, "state/d/*"),
    (_flip, "state/_METADATA"),
    (_remove, "state/manifest.ocdbt"),
    (_flip, "manifest.json"),
    (_flip, "state/d/*"),
    (_remove, "record"),
    (_remove, "state/d/*"),
    (_empty, "record/metadata"),
    (_flip, "state/manifest.ocdbt"),
    (_truncate, "state/_METADATA"),
    (_empty, "state/d/*"),
    (_remove, "manifest.json"),
    (_truncate, "manifest.json"),
    (_flip, "state/_sharding"),
    (_remove, "state"),
    (_flip, "record/metadata"),
    (_truncate, "record/metadata"),
    (_remove, "commit_success.txt"),
    (_empty, "manifest.json"),
    (_flip, "state/ocdbt.process_0/d/*"),
)


def damages(
    runs: Runs,
    count: int,
    *,
    processes: int,
    methods: Sequence[str] = METHODS,
    seed: int = 0,
) -> dict[str, Any]:
    """Damages the newest checkpoint or the two newest of finished runs, and resumes.

    Args:
        runs: folder and flags of the runs.
        count: of runs; they go through all methods and all of `DAMAGES`.
        processes: at the same time.
        methods: of `METHODS`.
        seed: of what is drawn.
    """
    for method in methods[:count]:
        runs.reference(method)
    choices = zip(itertools.cycle(methods), range(count))
    one = functools.partial(_damaged, runs, seed)
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        cases = list(pool.map(lambda choice: one(*choice), choices))
    return {
        "runs": count,
        "fell_back_to_the_newest_good": sum(case["fell_back"] for case in cases),
        "same_end": sum(case["same_end"] for case in cases),
        "clean": sum(case["clean"] for case in cases),
        "cases": cases,
    }


def _damaged(runs: Runs, seed: int, method: str, index: int) -> dict[str, Any]:
    rng = random.Random(f"{seed} {index}")
    damage, pattern = DAMAGES[index % len(DAMAGES)]
    workdir = runs.root / f"damaged-{index}"
    shutil.copytree(runs.reference(method), workdir)
    files = Workdir(workdir)
    steps = Checkpoints(files).steps()
    spoilt = 1 + index % 2
    for step in steps[-spoilt:]:
        found = sorted((files.checkpoints / str(step)).glob(pattern))
        damage(rng.choice([path for path in found if path.exists()]), rng)
    ended = runs.finish(method, workdir)
    aside = sorted(path.name for path in files.damaged.glob("*"))
    good = steps[-spoilt - 1]
    same = ended.status == 0 and same_end(workdir, runs.reference(method))
    case = {
        "method": method,
        "damage": f"{damage.__name__.strip('_')} {pattern}",
        "checkpoints": spoilt,
        "fell_back": f"continuing from step {good}" in ended.stderr
        and aside == sorted(f"checkpoints-{step}" for step in steps[-spoilt:]),
        "clean": ended.is_clean,
        "same_end": same,
    }
    shutil.rmtree(workdir)
    return case


def main() -> None:
    """Parses flags, runs, prints and saves."""
    flags = _options()
    parts = flags.parts.split(",")
    figures: dict[str, Any] = {"machine": machine(_PACKAGES)}
    with tempfile.TemporaryDirectory() as root:
        runs = Runs(pathlib.Path(root))
        made: dict[str, Callable[[], dict[str, Any]]] = {
            "kills": lambda: hits(
                runs, signal.SIGKILL, flags.kills, processes=flags.processes
            ),
            "terms": lambda: hits(
                runs, signal.SIGTERM, flags.terms, processes=flags.processes
            ),
            "damages": lambda: damages(runs, flags.damages, processes=flags.processes),
            "disks": lambda: fault_disks.all_disks(runs),
            "saving": saving.measure,
        }
        for part in parts:
            figures[part] = made[part]()
            brief = {k: v for k, v in figures[part].items() if k != "cases"}
            print(f"{part}: {json.dumps(brief)}", flush=True)
            if flags.out:
                write_json(flags.out, figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="Number of killed runs.")
    parser.add_argument(
        "--terms", type=int, default=20, help="Number of signalled runs."
    )
    parser.add_argument(
        "--damages",
        type=int,
        default=20,
        help="Number of runs with damaged checkpoints.",
    )
    parser.add_argument(
        "--processes", type=int, default=2, help="Number of runs at the same time."
    )
    parser.add_argument("--parts", default="kills,terms,damages,disks,saving")
    parser.add_argument("--out", help="JSON file to write the results to.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
