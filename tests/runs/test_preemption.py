"""Signals: at once while nothing would be lost, then when asked, then at once again."""

import signal
import subprocess
import sys
import time

import pytest

from caco_jax.runs.preemption import REQUEUE_STATUS, SIGNALS, Stop, Stopped

# The suite itself may run below nohup, which these programs do not.
LISTENING = """
import os
import signal
import time
signal.signal(signal.SIGHUP, signal.SIG_DFL)
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


ALL = [signal.Signals[f"SIG{name}"] for name in SIGNALS]


@pytest.mark.parametrize("number", ALL)
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


@pytest.mark.parametrize("first", ALL[2:])
def test_a_closed_terminal_or_a_scheduler_may_say_it_twice(start, first):
    process = start(ASKING)
    process.send_signal(first)
    assert process.stdout.readline() == "asked\n"
    for _ in range(3):
        process.send_signal(first)
        time.sleep(0.05)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == REQUEUE_STATUS
    assert process.stderr.read() == (
        f"{first.name}: finishing the step, then saving\nstopped: SIGINT again\n"
    )


def test_only_the_signals_that_are_named_are_heard(start):
    process = start('STOP.listen_again(["XCPU"])\n' + ASKING)
    process.send_signal(signal.SIGXCPU)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == -signal.SIGUSR1


def test_below_nohup_a_closed_terminal_is_nothing(start):
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = start(f"{ignoring}STOP.listen_again()\n{ASKING}")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    assert "SIGHUP" not in process.communicate(timeout=20)[1]


# The reader of standard error has gone, or is there and reads no more.
LEFT = "reader, writer = os.pipe(); os.dup2(writer, 2); os.close(writer)\n"
GONE = f"{LEFT}os.close(reader)\n"
STUCK = f"{LEFT}os.set_blocking(2, False)\ntry:\n    os.write(2, bytes(1 << 20))\n"
STUCK += "except BlockingIOError: pass\nos.set_blocking(2, True)\n"


@pytest.mark.parametrize("before", [GONE, STUCK], ids=["gone", "stuck"])
def test_a_signal_is_heard_where_nobody_reads_what_is_said(start, before):
    process = start(before + ASKING)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == REQUEUE_STATUS


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
