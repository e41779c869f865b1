"""Many processes are one run: equal results, shared checkpoints, and how they stop."""

import functools
import json
import shutil
import socket
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest

from caco_jax.config.build import load_run
from caco_jax.runs import distributed
from caco_jax.runs.workdir import Workdir
from caco_jax.schema import UserError
from tests.runs import processes

# One worker runs them all: they share what the fixtures trained.
pytestmark = pytest.mark.xdist_group("distributed")

# Processes, and devices of each.
LAYOUTS = {"2x4": (2, 4), "4x2": (4, 2)}
CONTINUED = "caco/continued"
FIRST = ("caco", "simclr")
OTHERS = tuple(processes.METHODS.keys() - FIRST)


def run_layout(folder, layout, names):
    """The named runs in the processes of a layout; (what became of them)."""
    count, devices = LAYOUTS[layout]
    command = ["tests.runs.processes", str(folder), *names]
    return processes.launched(
        [command] * count, devices=devices, environments=processes.slurm(count)
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory, devices):
    """Trains methods in this process, on eight devices: the folder of their runs."""
    folder = tmp_path_factory.mktemp("alone")

    def train(names):
        processes.train(folder, [name for name in names if name in processes.METHODS])
        return folder

    return train


class Trained(NamedTuple):
    """What the processes of a layout trained; what each wrote; one process's runs."""

    folder: object
    names: tuple
    outputs: list
    alone: object


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("2x4", FIRST), id="2x4"),
        pytest.param(("2x4", OTHERS), id="2x4-others", marks=pytest.mark.slow),
        pytest.param(
            ("4x2", (*processes.METHODS, CONTINUED)), id="4x2", marks=pytest.mark.slow
        ),
    ],
)
def trained(request, tmp_path_factory, alone):
    layout, names = request.param
    folder = tmp_path_factory.mktemp(layout)
    if CONTINUED in names:
        # What one process began, cut off after an epoch, goes on in many.
        begun = folder / CONTINUED.replace("/", "_")
        shutil.copytree(alone(["caco"]) / "caco", begun)
        shutil.rmtree(begun / "checkpoints" / "4")
    with run_layout(folder, layout, names) as running:
        expected = alone(names)
        outputs = processes.ended(running, timeout_s=400)
    for ended in outputs:
        assert ended.status == 0, ended.err
    return Trained(folder, names, outputs, expected)


def assert_same_run(found, expected):
    """Metric lines, and the last state as this process reads it on its devices."""
    rows, wanted = (Workdir(folder).read_metrics() for folder in (found, expected))
    assert [row.keys() for row in rows] == [row.keys() for row in wanted]
    for row, want in zip(rows, wanted, strict=True):
        for key in row:
            np.testing.assert_allclose(row[key], want[key], rtol=1e-5, atol=1e-5)
    state, want = load_run(found).state, load_run(expected).state
    assert int(state.step) == 4
    assert jax.tree.structure(state) == jax.tree.structure(want)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, state, want)


def test_many_processes_are_one_run(trained):
    for name in trained.names:
        method, _, _ = name.partition("/")
        folder = trained.folder / name.replace("/", "_")
        assert_same_run(folder, trained.alone / method)
        steps = {path.name for path in (folder / "checkpoints").iterdir()}
        assert {"2", "4"} <= steps


def test_the_first_process_alone_writes_and_logs(trained):
    for name in trained.names:
        rows = Workdir(trained.folder / name.replace("/", "_")).read_metrics()
        assert [row["epoch"] for row in rows] == [1, 2]
    first, *others = trained.outputs
    assert first.err.count("INFO:caco_jax:all is kept in") == len(trained.names)
    assert [ended.err for ended in others] == [""] * len(others)


# Mistakes, of the command as users run it.


def pretrain_command(folder, port, index, *flags):
    return [
        "experiments.pretrain",
        "--config=configs/simclr_digits.py:smoke",
        f"--workdir={folder}",
        "--distributed",
        f"--coordinator_address=127.0.0.1:{port}",
        "--num_processes=2",
        f"--process_id={index}",
        *flags,
    ]


def refused(commands, *, devices=1):
    """The error lines of commands that all end with status 2."""
    with processes.launched(commands, devices=devices) as running:
        found = processes.ended(running, timeout_s=120)
    assert [ended.status for ended in found] == [2] * len(found), found
    return "".join(ended.err for ended in found).splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_meeting_that_does_not_happen_is_one_line_in_time(tmp_path, index):
    port, begun = processes.free_port(), time.monotonic()
    command = pretrain_command(tmp_path, port, index, "--initialization_timeout=2")
    assert refused([command]) == [
        "error: --coordinator_address: not all processes connected to "
        f"127.0.0.1:{port} within 2 s; check that all were started and that process 0 "
        "can be reached, or change --coordinator_address or --initialization_timeout"
    ]
    assert time.monotonic() - begun < 60
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_processes_of_different_runs_stop_with_one_line(tmp_path):
    port = processes.free_port()
    commands = [
        pretrain_command(tmp_path / "run", port, index, f"--config.seed={index}")
        for index in range(2)
    ]
    assert refused(commands) == [
        "error: process 1 has other settings than process 0: seed (1, not 0); start "
        "all processes with the same flags and files"
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_mistake_of_all_is_one_line(tmp_path):
    port = processes.free_port()
    flags = ["--config.training.batch_size=6"]
    commands = [
        pretrain_command(tmp_path / "run", port, index, *flags) for index in range(2)
    ]
    assert refused(commands, devices=2) == [
        "error: config.training.batch_size: expected a multiple of the 4 devices, got 6"
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_without_a_cluster_the_flags_are_asked_for(tmp_path):
    command = pretrain_command(tmp_path, 1, 0)
    (line,) = refused([[flag for flag in command if "127." not in flag]])
    assert line == (
        "error: --distributed: expected a cluster that JAX detects, got none "
        "(coordinator_address should be defined.); give "
        "--coordinator_address=HOST:PORT, --num_processes and --process_id"
    )


# What is known alone, and decisions with the others' texts made up.


@pytest.mark.parametrize(
    "values, message",
    [
        (("here", 2, 1), "--coordinator_address: expected HOST:PORT, got here"),
        ((":1234", 2, 1), "--coordinator_address: expected HOST:PORT, got :1234"),
        (("a:0", 2, 1), "--coordinator_address: expected HOST:PORT, got a:0"),
        (("a:65536", 2, 1), "--coordinator_address: expected HOST:PORT, got a:65536"),
        (("a:1", 0, 0), "--num_processes: expected at least 1, got 0"),
        (("a:1", 2, 2), r"--process_id: expected 0 to --num_processes - 1 (1), got 2"),
        (
            ("a:1", 2, -1),
            r"--process_id: expected 0 to --num_processes - 1 (1), got -1",
        ),
    ],
)
def test_flags_that_do_not_fit(values, message):
    with pytest.raises(UserError) as caught:
        distributed.initialize(*values)
    assert str(caught.value) == message


def test_a_port_in_use_is_refused():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as caught:
            distributed.initialize(f"localhost:{port}", 2, 0)
    assert str(caught.value) == (
        f"--coordinator_address: cannot listen on port {port} here, where process 0 "
        "is: Address already in use; name another port to all processes"
    )


def among(monkeypatch, texts, *, index):
    """Makes this process one of many, and the texts of the others these."""

    def gather(text):
        return [*texts[:index], text, *texts[index + 1 :]]

    monkeypatch.setattr(jax, "process_count", lambda: len(texts))
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(distributed, "gather_texts", gather)


def refuse():
    raise UserError("no")


@pytest.mark.parametrize(
    "act, others, index, message, ours",
    [
        (refuse, ["", "", ""], 1, "process 1: no", True),
        (refuse, ["", "", "never"], 1, "process 1: no", True),
        (refuse, ["never", "", ""], 1, "process 0: never", False),
        (refuse, ["no", "", "no"], 1, "no", False),
        (refuse, ["", "no", "no"], 0, "no", True),
        (int, ["", "no", ""], 0, "process 1: no", False),
    ],
)
def test_all_stop_where_one_refuses(monkeypatch, act, others, index, message, ours):
    among(monkeypatch, others, index=index)
    with pytest.raises(distributed.AgreedError) as caught:
        distributed.all_or_none(act)
    assert (str(caught.value), caught.value.ours) == (message, ours)


def test_all_go_on_where_none_refuses(monkeypatch):
    among(monkeypatch, ["", ""], index=1)
    assert distributed.all_or_none(lambda: 7) == 7


def test_one_process_refuses_in_its_own_words():
    error = UserError("mine")

    def act():
        raise error

    with pytest.raises(UserError) as caught:
        distributed.all_or_none(act)
    assert caught.value is error


@pytest.mark.parametrize("index", [0, 1])
def test_what_differs_is_named(monkeypatch, index):
    runs = [{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None, "d": [4]}]
    among(monkeypatch, [json.dumps(run) for run in runs], index=index)
    with pytest.raises(distributed.AgreedError) as caught:
        distributed.require_same(runs[index])
    assert str(caught.value) == (
        "process 1 has other settings than process 0: b (3, not 2), d ([4], not None); "
        "start all processes with the same flags and files"
    )
    assert caught.value.ours == (index == 0)


def test_the_same_run_is_the_same_in_any_order(monkeypatch):
    among(monkeypatch, ['{"a": 1, "b": [2]}', ""], index=1)
    distributed.require_same({"b": (2,), "a": 1})
