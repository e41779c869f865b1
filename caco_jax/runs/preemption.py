"""Handling of SIGTERM and SIGINT: save a checkpoint, then exit.

Before training has started the process exits at once, even during compilation. Later
the run finishes its step, saves a checkpoint and exits. A second SIGTERM or SIGINT ends
it at once. The exit status is the same in all cases and asks the scheduler to requeue.
"""

import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence

logger = logging.getLogger("caco_jax")

# EX_TEMPFAIL of sysexits.h: "try again later".
REQUEUE_STATUS = 75
# Of a scheduler or a user; of a closed terminal; of SLURM's --signal and others.
SIGNALS = ("TERM", "INT", "HUP", "USR1", "USR2")
MORE_SIGNALS = ("XCPU", "ALRM", "QUIT")
# The others may arrive twice for one event: from the shell and from the terminal.
_IMPATIENT = ("SIGTERM", "SIGINT")
# Longest wait at the exit for a reader of the output that does not read.
_SECONDS_TO_SAY = 1.0


class Stopped(Exception):
    """A run was stopped on request; rerun the same command to resume."""


class Stop:
    """Listens for signals that ask this process to stop."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._signals: Sequence[str] = SIGNALS
        self._is_polled = False
        self._end: Callable[[int], object] = sys.exit
        self._writer: socket.socket | None = None

    def listen(self, end: Callable[[int], object]) -> None:
        """Installs the signal handlers; only in the main thread.

        Args:
            end: ends the process at once with a status, from any thread.
        """
        self._end = end
        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        # In a thread, because Python runs handlers only between two bytecodes: a
        # compiler may take minutes between them.
        threading.Thread(target=self._watch, args=[reader], daemon=True).start()
        self.listen_again()

    def listen_again(self, signals: Sequence[str] | None = None) -> None:
        """Installs the handlers again after a library has replaced them.

        SIGHUP stays ignored if it is ignored, as under ``nohup``.

        Args:
            signals: these from now on, and no others; None: as before.
        """
        if self._writer is None:
            return
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        before, self._signals = self._signals, signals or self._signals
        for name in (*before, *self._signals):
            number = signal.Signals[f"SIG{name}"]
            if name == "HUP" and signal.getsignal(number) == signal.SIG_IGN:
                continue
            heard = name in self._signals
            signal.signal(number, _hear if heard else signal.SIG_DFL)

    def _watch(self, reader: socket.socket) -> None:
        while number := reader.recv(1):
            self._receive(signal.Signals(number[0]).name)

    def _receive(self, name: str) -> None:
        if self._is_polled and self._name is None:
            self._name = name
            _say(lambda: logger.warning("%s: finishing the step, then saving", name))
            return
        if self._name and name not in _IMPATIENT:
            return
        again = " again" if self._name else ""
        line = f"stopped: {name}{again}"
        _say(lambda: print(line, file=sys.stderr, flush=True))
        self._end(REQUEUE_STATUS)

    def requested(self) -> bool:
        """Whether to stop. After the first call, a signal waits for the next call."""
        self._is_polled = True
        return self._name is not None

    def check(self) -> None:
        """Raises Stopped if this process was asked to end."""
        if self.requested():
            raise Stopped(f"{self._name}")


def _hear(*_: object) -> None:
    """The handler in the main thread; the watching thread gets the signal by itself."""


def _say(act: Callable[[], object]) -> None:
    """Prints a line, unless the reader of the output has gone or does not read."""

    def say() -> None:
        with contextlib.suppress(Exception):
            act()

    speaker = threading.Thread(target=say, daemon=True)
    speaker.start()
    speaker.join(_SECONDS_TO_SAY)
