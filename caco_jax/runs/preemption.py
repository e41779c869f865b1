"""Ending early and in order: what SIGTERM and SIGINT do to a run.

While nothing would be lost the process ends at once, even in the midst of compiling.
Once a run has trained it finishes its step, saves, and then ends. A second SIGTERM or
SIGINT ends it at once. The status is the same in all cases, and says: start me again.
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
# By a scheduler or a person; by a terminal that closes; by SLURM's --signal and others.
SIGNALS = ("TERM", "INT", "HUP", "USR1", "USR2")
MORE_SIGNALS = ("XCPU", "ALRM", "QUIT")
# The others may come twice of themselves: from the shell and from the terminal.
_IMPATIENT = ("SIGTERM", "SIGINT")
# How long the end waits for who does not read what is said.
_SECONDS_TO_SAY = 1.0


class Stopped(Exception):
    """A run ended early because it was asked to; it can be continued."""


class Stop:
    """Whether this process was asked to end."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._signals: Sequence[str] = SIGNALS
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

    def listen_again(self, signals: Sequence[str] | None = None) -> None:
        """Takes the signals back if `listen` had them and something took them since.

        SIGHUP stays ignored where it is, as below ``nohup``.

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
        """Whether to end; once this has been asked, a first signal waits for it."""
        self._is_polled = True
        return self._name is not None

    def check(self) -> None:
        """Raises Stopped if this process was asked to end."""
        if self.requested():
            raise Stopped(f"{self._name}")


def _hear(*_: object) -> None:
    """What a signal does in the main thread: the watching one is told by itself."""


def _say(act: Callable[[], object]) -> None:
    """Says something, unless nobody is left to read it, or nobody reads on."""

    def say() -> None:
        with contextlib.suppress(Exception):
            act()

    speaker = threading.Thread(target=say, daemon=True)
    speaker.start()
    speaker.join(_SECONDS_TO_SAY)
