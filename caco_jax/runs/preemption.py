"""Ending early and in order: what SIGTERM and SIGINT do to a run.

While nothing would be lost the process ends at once, even in the midst of compiling.
Once a run has trained it finishes its step, saves, and then ends. A second signal ends
it at once. The status is the same in all cases, and says: start me again.
"""

import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable

logger = logging.getLogger("caco_jax")

# EX_TEMPFAIL of sysexits.h: "try again later".
REQUEUE_STATUS = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A run ended early because it was asked to; it can be continued."""


class Stop:
    """Whether this process was asked to end."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._is_polled = False
        self._end: Callable[[int], object] = sys.exit
        self._writer: socket.socket | None = None

    def listen(self, end: Callable[[int], object]) -> None:
        """Takes over the signals; only in the main thread.

        Args:
            end: ends the process at once with a status, from any thread.
        """
        self._end = end
        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        # A thread, for Python calls handlers between two lines of Python only: a
        # compiler may take minutes from one to the next.
        threading.Thread(target=self._watch, args=[reader], daemon=True).start()
        self.listen_again()

    def listen_again(self) -> None:
        """Takes the signals back if `listen` had them and something took them since."""
        if self._writer is None:
            return
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)

    def _watch(self, reader: socket.socket) -> None:
        while number := reader.recv(1):
            self._receive(signal.Signals(number[0]).name)

    def _receive(self, name: str) -> None:
        if self._is_polled and self._name is None:
            self._name = name
            with contextlib.suppress(OSError, ValueError):
                logger.warning("%s: finishing the step, then saving", name)
            return
        again = " again" if self._name else ""
        # Nobody may be left to read it, and the process ends all the same.
        with contextlib.suppress(OSError, ValueError):
            print(f"stopped: {name}{again}", file=sys.stderr, flush=True)
        self._end(REQUEUE_STATUS)

    def requested(self) -> bool:
        """Whether to end; once this has been asked, a first signal waits for it."""
        self._is_polled = True
        return self._name is not None

    def check(self) -> None:
        """Raises Stopped if this process was asked to end."""
        if self.requested():
            raise Stopped(f"{self._name}")
