"""Writer of TensorBoard event files.

It writes in the caller's thread and closes the file after each write. TensorBoard's own
writers have threads, which fail with a traceback when the disk is full and then block
training.
"""

import os
import pathlib
import socket
import struct
import time
from collections.abc import Mapping


class EventFile:
    """An event file of scalars.

    Args:
        folder: directory for the file; its parent has to exist.
        purge_step: TensorBoard drops points of other files from this step on.
    """

    def __init__(self, folder: pathlib.Path, *, purge_step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._file = folder / f"{name}.{os.getpid()}"
        start = SessionLog(status=SessionLog.START)
        now = time.time()
        self._append(
            Event(wall_time=now, file_version="brain.Event:2"),
            Event(wall_time=now, step=purge_step, session_log=start),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve.

        Args:
            step: the step of all points.
            values: by the curves' names.

        Raises:
            OSError: the write failed; the file may be incomplete, so start another one.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=k, simple_value=v) for k, v in values.items()]
        summary = Summary(value=points)
        self._append(Event(wall_time=time.time(), step=step, summary=summary))

    def _append(self, *events: object) -> None:
        data = b"".join(_framed(e.SerializeToString()) for e in events)  # type: ignore
        with self._file.open("ab", buffering=0) as file:
            if file.write(data) != len(data):
                raise OSError(f"{self._file} is not whole")


def _framed(content: bytes) -> bytes:
    """A record of a TFRecord file: length and data, each with a checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(content))
    return b"".join(
        part + struct.pack("<I", masked_crc32c(part)) for part in (length, content)
    )
