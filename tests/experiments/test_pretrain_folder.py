"""Pretraining on a person's own pictures, as the README says it."""

import json
import os
import re
import subprocess
import sys

import jax
import pytest

from caco_jax.programs import pretrain
from caco_jax.runs.workdir import Workdir
from tests.data.pictures import write_pictures
from tests.experiments.commands import CONFIG, ROOT, TINY, call

pytestmark = pytest.mark.xdist_group("commands")


def in_a_process(*flags):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles faster
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
    assert line.startswith("error: config.data.bad_image_share: want at most 2 of the")
    assert len(Workdir(tmp_path / "run").bad_images_file.read_text().splitlines()) > 1
