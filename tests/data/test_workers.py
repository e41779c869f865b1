"""How many workers there are, how they end, and what is said of it."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from caco_jax.data import workers


def test_workers_are_one_a_core_where_nothing_is_said(monkeypatch):
    for cores, count in [(3, 3), (200, workers.MOST_WORKERS)]:
        monkeypatch.setattr(workers, "usable_cores", lambda cores=cores: cores)
        assert workers.worker_count(None) == count
    assert workers.worker_count(0) == 0
    assert workers.worker_count(40) == 40


ABRUPT = """
import os
from multiprocessing import shared_memory
from caco_jax.data.workers import _start_tracker

_start_tracker()
print(shared_memory.SharedMemory(create=True, size=8).name, flush=True)
os._exit(75)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /dev/shm")
def test_an_abrupt_end_frees_shared_memory_without_a_word():
    # Whoever reads its stderr to the end waits for the process that cleans up.
    ended = subprocess.run([sys.executable, "-c", ABRUPT], capture_output=True)
    assert (ended.returncode, ended.stderr) == (75, b"")
    assert not pathlib.Path("/dev/shm", ended.stdout.decode().strip()).exists()


PARENT = """
import multiprocessing, pathlib, sys, time
from caco_jax.data.pipeline import CropSource
from caco_jax.data.workers import stream
from tests.data.pictures import picture_records
from tests.data.test_pipeline import SPECS, SHAPE

if __name__ == "__main__":
    records = picture_records(pathlib.Path(sys.argv[1]), 8)
    with stream(CropSource(records, SPECS, **SHAPE), workers=1) as parts:
        next(parts)
        (child,) = multiprocessing.active_children()
        print(child.pid, flush=True)
        time.sleep(60)
"""


def gone(pid):
    """Whether a process ended, within some seconds."""
    for _ in range(100):
        try:
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return True
        if "State:\tZ" in status:  # dead, and nobody has asked yet
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_of_a_killed_run_do_not_outlive_it(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": "."}
    with subprocess.Popen(
        [sys.executable, script, tmp_path], stdout=subprocess.PIPE, env=environment
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    assert gone(worker)


@pytest.mark.parametrize(
    ("free", "fitting", "said"),
    [
        (None, 4, None),  # the system keeps it elsewhere
        (10**9, 4, None),
        (1000 * 8 + 1000 * 4 * 2, 2, "using 2 of them"),
        (1000 * 8, 0, "using threads instead"),
        (0, 0, "using threads instead"),
    ],
)
def test_workers_are_as_many_as_the_shared_memory_holds(
    monkeypatch, caplog, free, fitting, said
):
    monkeypatch.setattr(workers, "_shared_bytes", lambda: free)
    assert workers.fitting_workers(4, 1000, held=8) == fitting
    assert workers.fitting_workers(0, 1000, held=8) == 0
    if said is None:
        assert not caplog.messages
    else:
        (message,) = caplog.messages
        assert message.startswith("data.workers: 4 worker processes need 0 MB of ")
        assert said in message


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("terminated unexpectedly with exit code -9. Search"), "killed"),
        (RuntimeError("terminated unexpectedly with exit code -7. S"), "/dev/shm is f"),
        (RuntimeError("terminated unexpectedly with exit code -11. S"), "by SIGSEGV"),
        (RuntimeError("terminated unexpectedly with exit code 1. S"), "with status 1"),
        (OSError(28, "No space left on device"), "/dev/shm is full"),
        (MemoryError(), "the memory is used up"),
    ],
)
def test_a_workers_end_is_one_line(error, said):
    def parts():
        yield 1
        raise error

    explained = workers._explained(parts())
    assert next(explained) == 1
    with pytest.raises(workers.WorkerError, match=r"^data.workers: ") as raised:
        next(explained)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [RuntimeError("ours"), OSError(5, "EIO")])
def test_other_errors_of_a_stream_stay(error):
    def parts():
        raise error
        yield

    with pytest.raises(type(error)) as raised:
        next(workers._explained(parts()))
    assert raised.value is error
