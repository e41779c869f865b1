"""What is said may be lost; it fails nothing."""

import io
import os
import subprocess
import sys

import pytest

from caco_jax.programs.streams import LenientStream

SAYING = """
import os, sys
from caco_jax.programs.streams import be_lenient
be_lenient()
for stream in (sys.stdout, sys.stderr):
    for _ in range(3):
        print("said " * 5000, file=stream, flush=True)
os.write(int(sys.argv[1]), b"reached")
sys.exit(75)
"""


def after_saying(**streams):
    """The status of a program that says much, and whether it came to its end."""
    reader, writer = os.pipe()
    program = [sys.executable, "-c", SAYING, str(writer)]
    process = subprocess.Popen(program, pass_fds=[writer], **streams)
    os.close(writer)
    status = process.wait(20)
    with open(reader, "rb") as file:
        return status, file.read()


def gone():
    """The writing end of a pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("which", ["stdout", "stderr"])
def test_a_reader_that_left_changes_neither_the_work_nor_the_status(which):
    writer = gone()
    try:
        assert after_saying(
            **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            | {which: writer}
        ) == (75, b"reached")
    finally:
        os.close(writer)


def test_a_full_disk_below_both_changes_nothing():
    with open("/dev/full", "w") as full:
        assert after_saying(stdout=full, stderr=full) == (75, b"reached")


def test_closed_streams_are_no_place_for_the_next_file(tmp_path):
    program = (
        "from caco_jax.programs.streams import be_lenient; be_lenient()\n"
        "import sys, os; file = open('saved', 'wb'); print('lost')\n"
        "print('lost', file=sys.stderr); os.write(2, b'of C'); file.write(b'mine')\n"
    )
    line = f'exec "{sys.executable}" -c "$1" <&- >&- 2>&-'
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        ["sh", "-c", line, "sh", program], cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "saved").read_bytes() == b"mine"


def test_where_the_disk_is_full_standard_error_says_so_once(capsys, monkeypatch):
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    with open("/dev/full", "w") as full:
        stream = LenientStream(full, "standard output")
        for _ in range(2):
            print("x", file=stream, flush=True)
        expected = "warning: standard output is lost: No space left on device\n"
        assert capsys.readouterr().err == expected
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def test_a_closed_stream_is_nobody_and_an_open_one_gets_all():
    inner = io.StringIO()
    stream = LenientStream(inner, "standard error")
    print("a", "b", file=stream)
    stream.writelines(["c", "d"])
    assert inner.getvalue() == "a b\ncd"
    assert stream.isatty() is False
    inner.close()
    print("lost", file=stream, flush=True)
    assert stream.isatty() is False
