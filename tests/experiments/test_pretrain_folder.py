"""Pretraining on a person's own pictures, as the README says it."""

import json
import os
import re
import subprocess
import sys

import jax
import pytest

from caco_jax.data import pipeline, records
from caco_jax.programs import pretrain
from caco_jax.runs.preemption import REQUEUE_STATUS
from caco_jax.runs.workdir import Workdir
from tests.compiling import FAST_COMPILING
from tests.data.pictures import write_pictures, write_squares
from tests.experiments.commands import CONFIG, ROOT, TINY, call, one_line

pytestmark = pytest.mark.xdist_group("commands")


def in_a_process(*flags):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "XLA_FLAGS": FAST_COMPILING,
    }
    return subprocess.run(
        [sys.executable, "-m", "experiments.pretrain", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_folder_of_pictures_is_one_command_away(tmp_path):
    pictures, workdir = tmp_path / "pictures", tmp_path / "run"
    for name, broken in [("cat", [4]), ("dog", [])]:
        write_pictures(pictures / name, 12, broken=broken)
    done = in_a_process(
        "--config=configs/caco_imagenet.py:smoke",
        f"--workdir={workdir}",
        f"--config.data.source=folder:{pictures}",
        "--config.data.split_seed=1",
        "--config.data.workers=2",
    )
    for complaint in ("Traceback", "Exception ignored", "Warning: "):
        assert complaint not in done.stderr
    assert done.returncode == 0, done.stderr
    check_run(done.stdout, done.stderr, workdir, pictures, steps=22 // 8)


def check_run(out, err, workdir, pictures, *, steps):
    """A run that skipped one picture, and lists it."""
    assert re.search(r"is complete: \d+ epochs, \d+ s, [\d,]+ images/s\.\n", out)
    skipped = re.findall(r"^WARNING: skipped: (.*)$", err, re.MULTILINE)
    assert [line.split(": ")[0] for line in skipped] == [f"{pictures}/cat/4.jpg"]
    files = Workdir(workdir)
    assert files.bad_images_file.read_text().splitlines() == skipped
    assert json.loads(files.summary_file.read_text())["bad_images"] == 1
    row = files.read_metrics()[0]
    assert row["step"] == steps
    assert 0 <= row["knn"] <= 1


# Two small photographs' views of a streamed folder, read by threads.
STREAMED = [
    *TINY,
    "--config.data.views=cifar",
    "--config.data.view_size=8",
    "--config.data.max_resident_bytes=0",
    "--config.data.workers=0",
    "--config.training.epochs=1",
    # One program for all of them, however many steps there are.
    "--config.optimizer.schedule=constant",
    "--config.target.schedule=constant",
]


def test_one_broken_picture_is_skipped_and_listed(tmp_path):
    pictures, workdir = tmp_path / "pictures", tmp_path / "run"
    for name, broken in [("cat", [4]), ("dog", [])]:
        write_pictures(pictures / name, 12, broken=broken)
    source = [f"--config.data.source=folder:{pictures}", "--config.data.split_seed=1"]
    status, out, err = call(
        pretrain.main, CONFIG, f"--workdir={workdir}", *STREAMED, *source
    )
    assert status == 0, err
    check_run(out, err, workdir, pictures, steps=22 // 16)


def test_a_broken_collection_is_one_line(tmp_path):
    write_pictures(tmp_path / "pictures", 24, broken=range(0, 24, 3))
    source = f"--config.data.source=folder:{tmp_path / 'pictures'}"
    status, _, err = call(
        pretrain.main, CONFIG, f"--workdir={tmp_path / 'run'}", *STREAMED, source
    )
    assert status == 2
    line = err.splitlines()[-1]  # and nothing of memory left over after it
    assert line.startswith(
        "error: config.data.bad_image_share: expected at most 2 of the"
    )
    assert len(Workdir(tmp_path / "run").bad_images_file.read_text().splitlines()) > 1


def test_what_cannot_be_opened_is_skipped_as_what_cannot_be_decoded(tmp_path):
    """A link to nothing, among pictures that would all be kept in memory."""
    for name in ("cat", "dog"):
        write_squares(tmp_path / "pictures" / name, 12)
    missing = tmp_path / "pictures" / "cat" / "99.png"
    missing.symlink_to(tmp_path / "nowhere.png")
    flags = [flag for flag in STREAMED if "max_resident" not in flag]
    source = f"--config.data.source=folder:{tmp_path / 'pictures'}"
    status, _, err = call(
        pretrain.main, CONFIG, f"--workdir={tmp_path / 'run'}", *flags, source
    )
    assert status == 0, err
    listed = Workdir(tmp_path / "run").bad_images_file.read_text()
    assert listed == f"{missing}: No such file or directory\n"


def test_a_directory_that_goes_away_is_waited_for_and_then_saved(tmp_path, monkeypatch):
    pictures, away = tmp_path / "pictures", tmp_path / "away"
    for name in ("cat", "dog"):
        write_pictures(pictures / name, 24)
    monkeypatch.setattr(records, "WAIT_SECONDS", 0)
    read, left = records._read, iter(range(200))

    def read_some(path):
        if next(left, None) is None and pictures.exists():
            pictures.rename(away)
        return read(path)

    monkeypatch.setattr(records, "_read", read_some)
    flags = [CONFIG, f"--workdir={tmp_path / 'run'}", *STREAMED]
    flags += [f"--config.data.source=folder:{pictures}"]
    flags += ["--config.training.epochs=8"]
    status, _, err = call(pretrain.main, *flags)
    assert status == REQUEUE_STATUS
    last = err.splitlines()[-1]
    assert re.search(r"^stopped: .*step \d+.*rerun the same command to resume$", last)
    assert not Workdir(tmp_path / "run").bad_images_file.exists()
    away.rename(pictures)
    monkeypatch.setattr(records, "_read", read)
    status, _, err = call(pretrain.main, *flags)
    assert status == 0, err
    assert "continuing from step" in err


def test_what_was_trained_is_saved_where_a_worker_ends(tmp_path, monkeypatch):
    write_pictures(tmp_path / "pictures", 48)
    made, left = pipeline.CropSource.__getitem__, iter(range(8))

    def make_some(source, index):
        if next(left, None) is None:
            raise MemoryError
        return made(source, index)

    monkeypatch.setattr(pipeline.CropSource, "__getitem__", make_some)
    flags = [CONFIG, f"--workdir={tmp_path / 'run'}", *STREAMED]
    flags += [f"--config.data.source=folder:{tmp_path / 'pictures'}"]
    flags += ["--config.training.epochs=6"]
    status, _, err = call(pretrain.main, *flags)
    assert status == 2
    last = err.splitlines()[-1]
    assert re.search(
        r"^error: data\.workers: a worker was killed, .*step \d+ is s", last
    )
    assert (tmp_path / "run" / "checkpoints").is_dir()


def test_no_picture_that_can_be_opened_is_one_line(tmp_path):
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        (tmp_path / "pictures" / f"{index}.jpg").symlink_to("/nowhere")
    source = f"--config.data.source=folder:{tmp_path / 'pictures'}"
    told = one_line(
        call(pretrain.main, CONFIG, f"--workdir={tmp_path / 'run'}", *STREAMED, source)
    )
    assert told.startswith("config.data.source: expected images that can be read in ")


def test_a_workdir_whose_name_is_not_utf8_is_one_line(tmp_path):
    workdir = tmp_path / os.fsdecode(b"caf\xe9")
    told = one_line(call(pretrain.main, CONFIG, f"--workdir={workdir}", *TINY))
    assert told.startswith("--workdir: expected a path in UTF-8 without any of ")


@pytest.mark.skipif(sys.platform == "darwin", reason="names are UTF-8 there")
def test_a_name_that_is_not_utf8_can_be_skipped_and_be_a_class(tmp_path):
    for name in ("cat", os.fsdecode(b"ca\xe9")):
        write_pictures(tmp_path / "pictures" / name, 12)
    (tmp_path / "pictures" / "cat" / os.fsdecode(b"\xe9\n.jpg")).write_bytes(b"no")
    source = f"--config.data.source=folder:{tmp_path / 'pictures'}"
    flags = [CONFIG, f"--workdir={tmp_path / 'run'}", *STREAMED, source]
    status, _, err = call(pretrain.main, *flags)
    assert status == 0, err
    (line,) = Workdir(tmp_path / "run").bad_images_file.read_text().splitlines()
    assert line.endswith(r"cat/\udce9\n.jpg: no image in a known format")
    status, _, err = call(pretrain.main, *flags)  # which has it of the checkpoint
    assert status == 0, err
