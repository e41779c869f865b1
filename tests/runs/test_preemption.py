"""Signals: at once while nothing would be lost, then when asked, then at once again."""

import signal
import subprocess
import sys
import time

import pytest

from caco_jax.runs.preemption import REQUEUE_STATUS, Stop, Stopped

LISTENING = """
import time
import os
from caco_jax.runs.preemption import Stop
STOP = Stop()
STOP.listen(os._exit)
"""
# A second of sleeping in C, which a signal does not end, again and again.
BUSY = """
import hashlib
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 29)
"""
ASKING = """
STOP.requested()
print("ready", flush=True)
until = time.monotonic() + 20
while not STOP.requested() and time.monotonic() < until:
    time.sleep(0.01)
print("asked" if STOP.requested() else "not asked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def start():
    """Starts a program; it is ready when this returns."""
    running = []

    def start(program):
        process = subprocess.Popen(
            [sys.executable, "-c", LISTENING + program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_while_nothing_is_lost_the_end_is_at_once_even_in_a_long_call(start, number):
    process = start(BUSY)
    sent = time.monotonic()
    process.send_signal(number)
    assert process.wait(20) == REQUEUE_STATUS == 75
    assert time.monotonic() - sent < 10
    assert process.stderr.read() == f"stopped: {number.name}\n"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_once_asked_for_it_waits_and_a_second_one_does_not(start, second):
    process = start(ASKING)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(second)
    assert process.wait(20) == REQUEUE_STATUS
    assert process.stderr.read() == (
        f"SIGTERM: finishing the step, then saving\nstopped: {second.name} again\n"
    )


def test_without_listening_nothing_is_asked_for():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    stop = Stop()
    stop.listen_again()
    assert not stop.requested()
    stop.check()
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert after == before


def test_checking_raises_what_ends_a_run():
    stop = Stop()
    stop.requested()
    stop._receive("SIGTERM")
    with pytest.raises(Stopped, match=r"^SIGTERM$"):
        stop.check()
