"""Standard output and error that do not fail a run when they cannot be written.

The reader of a pipe may exit, a terminal close, the disk of a redirected log be full.
The output is lost then; results and checkpoints are not.
"""

import contextlib
import errno
import os
import sys
from typing import Any, TextIO


class LenientStream:
    """A text stream that drops what it cannot write.

    Args:
        stream: to write to.
        name: name of the stream in the warning that output is lost.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Any:
        return iter(self._stream)

    def write(self, text: str) -> int:
        """Writes the text if possible; returns its length in any case."""
        with self._losing():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes what it can."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Writes what it can."""
        with self._losing():
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether the stream is a terminal; False once it is closed."""
        with contextlib.suppress(OSError, ValueError):
            return self._stream.isatty()
        return False

    @contextlib.contextmanager
    def _losing(self) -> Any:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it was closed
            first, self._failed = not self._failed, True
            # No warning for a closed pipe: its reader closed it on purpose.
            if first and getattr(error, "errno", None) not in (errno.EPIPE, None):
                message = f"warning: {self._name} is lost: {error.strerror}\n"  # type: ignore[union-attr]
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    sys.__stderr__.write(message)  # type: ignore[union-attr]


def be_lenient() -> None:
    """Replaces standard output and error, open or closed, by lenient streams."""
    # The descriptor of a closed stream would be reused by the next file that is opened,
    # and messages of C libraries would be written into that file.
    while (hole := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(hole)
    for name, said in (("stdout", "standard output"), ("stderr", "standard error")):
        stream = getattr(sys, name)
        if isinstance(stream, LenientStream):
            continue
        if stream is None:
            stream = open(os.devnull, "w")  # noqa: SIM115
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, LenientStream(stream, said))
