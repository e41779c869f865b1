"""Who follows a run: lines, a bar, TensorBoard, Weights & Biases."""

import argparse
import logging
import struct
import sys
import types

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from caco_jax.programs import reporting
from caco_jax.schema import UserError

ROW = {"epoch": 1, "step": 5, "loss": 2.5, "knn": 0.875, "alarms": ["collapse"]}


def events(folder):
    """(step, tag, value) of all scalars in event files, in the order of writing."""
    found = []
    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):  # length, its checksum, the event, its checksum
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            at += 16 + size
    return found


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(reporting.time, "monotonic", lambda: now.seconds)
    return now


def test_lines_come_once_a_minute_and_at_the_end(clock, capsys):
    lines = reporting.Lines()
    metrics = {"loss": np.array([3.0, 2.0])}
    lines.phase_begun("start-up step", 0, 3216)
    clock.seconds = 13.0
    lines.watch("start-up step", 16, metrics)
    assert capsys.readouterr().err == "first start-up step done, 13 s with compiling\n"
    lines.epoch_done(1, 3, ROW, 640.4)
    assert capsys.readouterr().err == ""
    clock.seconds = 173.0
    lines.watch("start-up step", 1616, metrics)
    lines.watch("start-up step", 1632, metrics)
    assert capsys.readouterr().err == (
        "start-up step 1,616 of 3,216: loss 2.000, about 3 min left\n"
    )
    clock.seconds = 234.0
    lines.epoch_done(2, 3, {"loss": 2.5, "knn": None}, 1640.4)
    lines.epoch_done(3, 3, ROW, 1640.4)
    assert capsys.readouterr().err == (
        "epoch 2 of 3: loss 2.500, 1,640 images/s\n"
        "epoch 3 of 3: loss 2.500, kNN 87.5%, 1,640 images/s\n"
    )


def test_a_start_up_has_a_bar_of_its_own(clock, capsys):
    bar = reporting.Bar()
    bar.phase_begun("start-up step", 0, 4)
    clock.seconds = 13.0
    for step in (2, 4):
        bar.watch("start-up step", step, {"loss": np.array([1.0])})
    shown = capsys.readouterr().err
    assert "first start-up step done, 13 s with compiling" in shown
    assert "| 4/4 [" in shown
    bar.phase_begun("step", 0, 4)
    bar.watch("step", 1, {"loss": np.array([1.0])})
    bar.epoch_done(1, 1, ROW, 640.4)
    bar.close()
    assert "| 1/1 [" in capsys.readouterr().err


def test_the_bar_counts_the_time_before_its_first_epoch(capsys):
    bar = reporting.Bar()
    bar._begun -= 100.0
    bar.epoch_done(3, 4, ROW, 640.4)
    shown = capsys.readouterr().err
    assert "3/4" in shown
    assert "loss 2.500, kNN 87.5%, 640 images/s" in shown
    assert "01:40<01:40" in shown  # one of them took 100 s, one is left
    bar.epoch_done(4, 4, ROW, 640.4)
    bar.close()
    assert capsys.readouterr().err.endswith("\n")


def test_tensorboard_has_every_number(tmp_path):
    board = reporting.TensorBoard(tmp_path / "events")
    board.epoch_done(7, 9, ROW, 640.0)
    board.close()
    assert events(tmp_path / "events") == [
        (7, "step", 5.0),
        (7, "loss", 2.5),
        (7, "knn", 0.875),
        (7, "images_per_second", 640.0),
    ]


def test_an_event_file_is_one_of_checked_records(tmp_path):
    board = reporting.TensorBoard(tmp_path / "events")
    board.epoch_done(4, 5, ROW, 640.0)
    board.epoch_done(5, 5, ROW, 640.0)
    (file,) = (tmp_path / "events").iterdir()
    assert ".tfevents." in file.name
    data, found = file.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        checks = struct.unpack("<II", data[8:12] + data[12 + size : 16 + size])
        content, length = data[12 : 12 + size], data[:8]
        assert checks == (masked_crc32c(length), masked_crc32c(content))
        found.append(Event.FromString(content))
        data = data[16 + size :]
    assert [event.step for event in found] == [0, 4, 4, 5]
    assert found[0].file_version == "brain.Event:2"
    assert found[1].session_log.status == SessionLog.START  # TensorBoard purges by it


def test_a_disk_that_recovers_has_the_epochs_since(tmp_path, monkeypatch):
    board = reporting.TensorBoard(tmp_path / "events")
    board.epoch_done(1, 3, {"loss": 1.0}, 8.0)
    path = type(tmp_path)
    with monkeypatch.context() as patch:

        def full(self, *_, **__):
            raise OSError(28, "No space left on device")

        patch.setattr(path, "open", full)
        board.epoch_done(2, 3, {"loss": 2.0}, 8.0)
    board.epoch_done(3, 3, {"loss": 3.0}, 8.0)
    losses = [
        (step, value)
        for step, tag, value in events(tmp_path / "events")
        if tag == "loss"
    ]
    assert losses == [(1, 1.0), (3, 3.0)]


def test_a_folder_that_is_gone_is_not_made_again(tmp_path):
    reporting.TensorBoard(tmp_path / "gone" / "events").epoch_done(1, 2, ROW, 1.0)
    assert not (tmp_path / "gone").exists()


def test_a_disk_that_fails_does_not_stop_a_run(tmp_path):
    (tmp_path / "file").write_text("")
    board = reporting.TensorBoard(tmp_path / "file" / "events")
    board.epoch_done(1, 2, ROW, 1.0)
    board.close()


def test_weights_and_biases_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"^--wandb: expected the package wandb, "):
        reporting.WeightsAndBiases("project", "runs/mine")


def test_weights_and_biases_gets_the_same_numbers(monkeypatch, tmp_path):
    said = []
    run = types.SimpleNamespace(
        log=lambda values, step: said.append((step, values)),
        finish=lambda: said.append("finished"),
    )
    made = types.SimpleNamespace(init=lambda **how: said.append(how) or run)
    monkeypatch.setitem(sys.modules, "wandb", made)
    reporter = reporting.WeightsAndBiases("project", str(tmp_path / "mine"))
    reporter.epoch_done(2, 2, ROW, 640.0)
    reporter.close()
    how, line, finished = said
    assert (how["project"], how["name"], how["resume"]) == ("project", "mine", "allow")
    numbers = {"step": 5, "loss": 2.5, "knn": 0.875, "images_per_second": 640.0}
    assert line == (2, numbers)
    assert finished == "finished"


@pytest.mark.parametrize(
    "seconds, said",
    [
        (0.2, "1 s"),
        (59.6, "60 s"),
        (180, "3 min"),
        (5940, "99 min"),
        (7300, "2 h"),
        (1e6, "12 days"),
    ],
)
def test_a_time_has_the_unit_that_fits_it(seconds, said):
    assert reporting.duration(seconds) == said


def test_of_a_run_in_a_bucket_nothing_is_written_here(monkeypatch, tmp_path, caplog):
    monkeypatch.chdir(tmp_path)
    said = []
    made = types.SimpleNamespace(init=lambda **how: said.append(how))
    monkeypatch.setitem(sys.modules, "wandb", made)
    flags = argparse.Namespace(
        no_tensorboard=False, wandb="project", workdir="gs://bucket/runs/mine"
    )
    with caplog.at_level(logging.INFO, "caco_jax"):
        reporter = reporting.make_reporter(flags)
    reporter.epoch_done(2, 2, ROW, 640.0)
    assert caplog.messages == ["no TensorBoard events are written into a bucket"]
    (how,) = said
    assert (how["name"], how["id"]) == ("mine", "bucket-runs-mine")
    assert how["dir"] is None
    assert not list(tmp_path.iterdir())


def test_all_that_the_flags_name_are_told(monkeypatch, tmp_path, clock, capsys):
    flags = argparse.Namespace(no_tensorboard=False, wandb=None, workdir=str(tmp_path))
    reporter = reporting.make_reporter(flags)
    reporter.phase_begun("step", 0, 3)
    clock.seconds = 61.0
    reporter.watch("step", 1, {"loss": np.array([1.5])})
    clock.seconds = 122.0
    reporter.watch("step", 3, {"loss": np.array([1.5])})
    reporter.epoch_done(1, 1, ROW, 640.0)
    reporter.close()
    assert capsys.readouterr().err == (
        "first step done, 61 s with compiling\n"
        "step 3 of 3: loss 1.500\n"
        "epoch 1 of 1: loss 2.500, kNN 87.5%, 640 images/s\n"
    )
    assert len(events(tmp_path / "tensorboard")) == 4
    flags.no_tensorboard, flags.workdir = True, str(tmp_path / "other")
    reporting.make_reporter(flags).epoch_done(1, 1, ROW, 640.0)
    assert not (tmp_path / "other").exists()


class Failing(reporting.Reporter):
    def __init__(self):
        self.asked = []

    def _fail(self, what):
        self.asked.append(what)
        raise OSError(28, "No space left on device")

    def phase_begun(self, *_):
        self._fail("phase_begun")

    def watch(self, *_):
        self._fail("watch")

    def epoch_done(self, *_):
        self._fail("epoch_done")

    def close(self):
        self._fail("close")


def test_one_that_fails_keeps_nobody_else_from_hearing_and_is_said_once(caplog):
    failing, heard = Failing(), []
    other = reporting.Reporter()
    other.epoch_done = lambda *row: heard.append(row)
    everyone = reporting.Everyone([failing, other])
    everyone.phase_begun("step", 0, 4)
    everyone.watch("step", 1, {})
    everyone.epoch_done(1, 2, ROW, 640.0)
    everyone.epoch_done(2, 2, ROW, 640.0)
    everyone.close()
    assert failing.asked == [
        "phase_begun",
        "watch",
        "epoch_done",
        "epoch_done",
        "close",
    ]
    assert [row[0] for row in heard] == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "Failing cannot report ([Errno 28] No space left on device); the run "
        "continues, and metrics.jsonl has every line"
    ]


def test_a_service_that_is_away_does_not_stop_a_run(monkeypatch, caplog):
    def init(**_):
        raise RuntimeError("api_key not configured\nTraceback ...")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    board = reporting.WeightsAndBiases("project", "runs/mine")
    board.epoch_done(1, 2, ROW, 640.0)
    board.close()
    assert "WeightsAndBiases cannot report (api_key not configured)" in caplog.text
