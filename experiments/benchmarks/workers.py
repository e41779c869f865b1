"""Runs benchmark candidates in separate processes, so that failures are isolated.

Each process has one library, so that memory and threads do not disturb the others. They
are timed in turn.
"""

import gc
import importlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from experiments.benchmarks.timing import Timing

ROUND_SECONDS = 0.1  # a timed round has as many steps as fit into it
MOST_STEPS = 100
REST_SECONDS = 0.02
END_SECONDS = 10


class Ready(NamedTuple):
    """A candidate that is ready to run.

    Attributes:
        step: starts one step, and may return before it is done.
        wait: returns when all steps that were started are done.
        facts: returns other facts, such as "memory_bytes"; called once, after the first
            steps.
        profile: writes a profile into a folder, and returns seconds per step by part.
    """

    step: Callable[[], object]
    wait: Callable[[], object]
    facts: Callable[[], dict[str, Any]] = dict
    profile: Callable[[str], dict[str, float]] | None = None


class Candidate(NamedTuple):
    """The description of a candidate, which a process makes a `Ready` from.

    Attributes:
        factory: "module:function", imported only in the process.
        settings: keyword arguments of the function.
    """

    factory: str
    settings: Mapping[str, Any]

    def make(self) -> Ready:
        """Sets up the candidate in this process."""
        module, _, name = self.factory.partition(":")
        return getattr(importlib.import_module(module), name)(**self.settings)


class Failed(Exception):
    """A candidate failed; the message states the reason."""


class _Bench:
    """The other end of the pipe: it answers the questions in the process."""

    def __init__(self) -> None:
        self.ready: Ready | None = None
        self.steps = 1

    def build(self, candidate: Candidate, round_seconds: float) -> dict[str, Any]:
        """Replaces the last candidate by another one, and runs it twice."""
        self.ready = None
        gc.collect()
        begun = time.perf_counter()
        self.ready = candidate.make()
        self.round()
        first = time.perf_counter() - begun
        self.steps = 1
        once = max(self.round()[0], round_seconds / MOST_STEPS)
        self.steps = max(round(round_seconds / once), 1)
        return {"build_seconds": first, **self.ready.facts()}

    def round(self) -> tuple[float, float]:
        """Seconds per step, and CPU seconds of all threads of the process."""
        assert self.ready is not None, "nothing was built"
        begun, busy = time.perf_counter(), time.process_time()
        for _ in range(self.steps):
            self.ready.step()
        self.ready.wait()
        elapsed = time.perf_counter() - begun, time.process_time() - busy
        return elapsed[0] / self.steps, elapsed[1] / self.steps

    def profile(self, folder: str) -> dict[str, float]:
        """Seconds per step, by part."""
        assert self.ready is not None, "nothing was built"
        assert self.ready.profile is not None, "it has no profile"
        return self.ready.profile(folder)


def _timing(seconds: Sequence[float]) -> Timing:
    median = statistics.median(seconds)
    return Timing(median, min(seconds), max(seconds), len(seconds))


def _serve(pipe: Connection) -> None:
    bench = _Bench()
    while True:
        try:
            action, arguments = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer = getattr(bench, action)(*arguments)
        # Out of memory, no compiler, an old version: any failure is a result.
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            pipe.send((False, f"{type(error).__name__}: {lines[0][:200]}"))
        else:
            pipe.send((True, answer))


class Crew:
    """Processes, by the names of their candidates.

    Args:
        limit_seconds: longest wait for one answer; a slower process is killed.
    """

    def __init__(self, *, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._members: dict[str, tuple[Any, Connection]] = {}

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop_all()

    def has(self, name: str) -> bool:
        """Whether a process has this name."""
        return name in self._members

    def stop_all(self) -> None:
        """Ends all processes."""
        for name in list(self._members):
            self.stop(name)

    def stop(self, name: str) -> None:
        """Ends a process, which frees all its memory."""
        if name in self._members:
            process, pipe = self._members.pop(name)
            pipe.close()  # it then ends by itself, together with its own processes
            process.join(END_SECONDS)
            process.kill()
            process.join()

    def build(
        self, candidates: Mapping[str, Candidate], *, round_seconds: float
    ) -> dict[str, dict[str, Any]]:
        """Sets up all in parallel; returns the facts of each, or {"failed": reason}."""
        for name, candidate in candidates.items():
            self._send(name, "build", candidate, round_seconds)
        return {name: self._answer_or_failure(name) for name in candidates}

    def alternate(
        self, names: Sequence[str], *, runs: int
    ) -> dict[str, dict[str, Any]]:
        """Times the built candidates in turn: {"seconds": per step} or {"failed"}.

        CPU seconds are measured too: with one thread for each library on a busy machine
        they are more reliable than wall-clock time.
        """
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        failed: dict[str, dict[str, Any]] = {}
        for _ in range(runs):
            for name in names:
                if name in failed:
                    continue
                time.sleep(REST_SECONDS)
                try:
                    seconds[name].append(self.ask(name, "round"))
                except Failed as failure:
                    failed[name] = {"failed": str(failure)}
        timed = {
            name: {"seconds": _timing(clock), "processor_seconds": _timing(busy)}
            for name in names
            if name not in failed
            for clock, busy in [tuple(zip(*seconds[name], strict=True))]
        }
        return timed | failed

    def compare(
        self,
        candidates: Mapping[str, Candidate],
        *,
        runs: int,
        round_seconds: float = ROUND_SECONDS,
    ) -> dict[str, dict[str, Any]]:
        """Builds all, then times in turn those that were built."""
        built = self.build(candidates, round_seconds=round_seconds)
        able = [name for name, facts in built.items() if "failed" not in facts]
        timed = self.alternate(able, runs=runs)
        return {name: facts | timed.get(name, {}) for name, facts in built.items()}

    def ask(self, name: str, action: str, *arguments: Any) -> Any:
        """Sends a question and returns the answer.

        Raises:
            Failed: an error in the process, no answer in time, or the process ended.
        """
        self._send(name, action, *arguments)
        return self._answer(name)

    def _send(self, name: str, action: str, *arguments: Any) -> None:
        if name not in self._members:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,))
            process.start()
            theirs.close()
            self._members[name] = process, ours
        self._members[name][1].send((action, arguments))

    def _answer(self, name: str) -> Any:
        process, pipe = self._members[name]
        try:
            if not pipe.poll(self._limit):
                self.stop(name)
                raise Failed(f"no answer in {self._limit:.0f} s")
            fine, answer = pipe.recv()
        except (EOFError, ConnectionError):
            process.join()
            self.stop(name)
            raise Failed(f"its process ended, status {process.exitcode}") from None
        if not fine:
            raise Failed(answer)
        return answer

    def _answer_or_failure(self, name: str) -> dict[str, Any]:
        try:
            return self._answer(name)
        except Failed as failure:
            return {"failed": str(failure)}
