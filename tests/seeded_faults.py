"""Seeds known faults and says which test sees each: `python -m tests.seeded_faults`.

Every fault of `tests.faults` is put into a copy of the checkout, by itself, and the
tests that are named for it run there, as `make test` runs them: without the slow ones.
The status is 1 if a fault slipped through.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tests.faults import FAULTS, Fault

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYTEST = ("-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-n", "0")
CACHE = ROOT / ".cache" / "seeded_faults"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pytest")
LINES_SHOWN = 20
LIMIT_SECONDS = 1800  # of a fault: a test that only waits has not seen it


class Run(NamedTuple):
    """What became of some tests.

    Attributes:
        passed: whether all did.
        failed: the first that did not; "" where all did, or none could be run.
        seconds: that they took.
        output: of pytest.
    """

    passed: bool
    failed: str
    seconds: float
    output: str


def with_fault(text: str, fault: Fault) -> str:
    """The text of a file with the fault in it.

    Raises:
        ValueError: the fault's text is not there, or more than once.
    """
    count = text.count(fault.old)
    if count != 1:
        raise ValueError(
            f"{fault.name}: expected its text once in caco_jax/{fault.file}, found it "
            f"{count} times; bring tests/faults up to date:\n{fault.old}"
        )
    return text.replace(fault.old, fault.new)


def copy_checkout(folder: pathlib.Path) -> None:
    """Copies what git knows, and what is new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in set(filter(None, listed.stdout.split("\0"))):
        if (ROOT / name).is_file():  # git lists what was deleted, too
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


@contextlib.contextmanager
def seeded(checkout: pathlib.Path, fault: Fault) -> Iterator[None]:
    """A block in which a checkout has a fault."""
    file = checkout / "caco_jax" / fault.file
    sound = file.read_text()
    file.write_text(with_fault(sound, fault))
    try:
        yield
    finally:
        file.write_text(sound)


def run_tests(checkout: pathlib.Path, tests: Sequence[str]) -> Run:
    """Runs tests of a checkout up to the first that fails."""
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *PYTEST, *(f"tests/{t}" for t in tests)],
            cwd=checkout,
            env={
                **os.environ,
                "JAX_COMPILATION_CACHE_DIR": str(CACHE),
                "PYTHONPATH": str(checkout),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Run(False, "", LIMIT_SECONDS, f"no end within {LIMIT_SECONDS} s")
    seconds = time.perf_counter() - begun
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::[^\s\[]+)", done.stdout, re.MULTILINE)
    output = done.stdout + done.stderr
    ran = done.returncode == 1 and failed
    return Run(done.returncode == 0, failed[1] if ran else "", seconds, output)


def judge(faults: Sequence[Fault], jobs: int) -> list[Run]:
    """What the tests of each fault say of it, in the faults' order."""
    with contextlib.ExitStack() as held:
        free: queue.SimpleQueue[pathlib.Path] = queue.SimpleQueue()
        for _ in range(jobs):
            folder = held.enter_context(tempfile.TemporaryDirectory())
            copy_checkout(pathlib.Path(folder))
            free.put(pathlib.Path(folder))

        def of_fault(fault: Fault) -> Run:
            checkout = free.get()
            try:
                with seeded(checkout, fault):
                    run = run_tests(checkout, fault.tests)
            finally:
                free.put(checkout)
            print(f"{fault.name}: {run.failed or 'SLIPPED'}", file=sys.stderr)
            return run

        checkout = free.get()
        tests = sorted({test for fault in faults for test in fault.tests})
        sound = run_tests(checkout, tests)
        free.put(checkout)
        if not sound.passed:
            raise SystemExit(f"without a fault the tests fail:\n{tail(sound)}")
        print(f"without a fault: {sound.seconds:.0f} s", file=sys.stderr)
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(of_fault, faults))


def tail(run: Run) -> str:
    """The end of what pytest said."""
    return "\n".join(run.output.splitlines()[-LINES_SHOWN:])


def table(faults: Sequence[Fault], runs: Sequence[Run]) -> str:
    """Faults and the tests that caught them, as Markdown."""
    lines = ["| fault | file | caught by | seconds |", "|---|---|---|---|"]
    for fault, run in zip(faults, runs, strict=True):
        caught = f"`{run.failed}`" if run.failed else "**slipped**"
        file = f"`caco_jax/{fault.file}`"
        lines.append(f"| {fault.name} | {file} | {caught} | {run.seconds:.0f} |")
    return "\n".join(lines)


def record(faults: Sequence[Fault], runs: Sequence[Run]) -> dict[str, object]:
    """The same as plain values, with the versions that it is of."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "faults": [
            {
                "fault": fault.name,
                "room": fault.room,
                "file": f"caco_jax/{fault.file}",
                "caught_by": run.failed or None,
                "seconds": round(run.seconds, 1),
            }
            for fault, run in zip(faults, runs, strict=True)
        ],
    }


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="faults whose name or room has one of these in it",
    )
    parser.add_argument("--jobs", type=int, default=1, help="faults at once")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file")
    return parser.parse_args(words)


def main() -> None:
    """Parses flags and runs."""
    flags = parse()
    faults = [
        fault
        for fault in FAULTS
        if not flags.only
        or any(only in fault.name or only == fault.room for only in flags.only)
    ]
    if not faults:
        raise SystemExit(f"--only: expected a part of a fault's name, got {flags.only}")
    runs = judge(faults, flags.jobs)
    print(table(faults, runs))
    if flags.out is not None:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(json.dumps(record(faults, runs), indent=2) + "\n")
    slipped = [
        (fault, run) for fault, run in zip(faults, runs, strict=True) if not run.failed
    ]
    for fault, run in slipped:
        print(f"\nslipped: {fault.name}\n{tail(run)}", file=sys.stderr)
    caught = len(faults) - len(slipped)
    print(f"\n{caught} of {len(faults)} faults caught.", file=sys.stderr)
    sys.exit(bool(slipped))


if __name__ == "__main__":
    main()
