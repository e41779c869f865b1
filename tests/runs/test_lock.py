"""A directory is one process's, and nobody's once that is dead."""

import errno
import fcntl
import subprocess
import sys

import pytest

from caco_jax.runs.workdir import locked
from caco_jax.schema import UserError

HOLD = """
import pathlib, sys, time
from caco_jax.runs.workdir import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_one_is_refused_until_the_first_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError) as caught, locked(tmp_path):
            pytest.fail("it is locked twice")
        holder.kill()
    assert str(caught.value) == (
        "--workdir: expected a directory that no other process uses, got "
        f"{tmp_path}; wait for the process or stop it, or name another directory"
    )
    with locked(tmp_path):
        assert (tmp_path / "lock").read_bytes() == b""


def test_it_can_be_had_again_after_the_block(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            pass
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        _ = 1 / 0
    with locked(tmp_path):
        pass


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    path = tmp_path / "none"
    with pytest.raises(UserError, match=r"cannot write to .*/none: No such file"):
        locked(path).__enter__()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        (warning,) = caplog.messages
    assert warning == (
        f"{tmp_path} cannot be locked (No locks available): make sure that no other "
        "process uses it"
    )
