"""Pretraining on a person's own pictures, as the README says it, in a process."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from caco_jax.runs.checkpoints import Workdir
from tests.data.pictures import write_pictures

ROOT = pathlib.Path(__file__).parents[2]


def pretrain(*flags):
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
    done = pretrain(
        "--config=configs/caco_imagenet.py:smoke",
        f"--workdir={workdir}",
        f"--config.data.source=folder:{pictures}",
        "--config.data.split_seed=1",
        "--config.data.workers=2",
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"is complete: 1 epochs, \d+ s, [\d,]+ images/s\.\n", done.stdout)
    for complaint in ("Traceback", "Exception ignored", "Warning: "):
        assert complaint not in done.stderr
    skipped = re.findall(r"^WARNING: skipped: (.*)$", done.stderr, re.MULTILINE)
    assert [line.split(": ")[0] for line in skipped] == [f"{pictures}/cat/4.jpg"]
    files = Workdir(workdir)
    assert files.bad_images_file.read_text().splitlines() == skipped
    assert json.loads(files.summary_file.read_text())["bad_images"] == 1
    (row,) = files.read_metrics()
    assert row["step"] == 22 // 8
    assert 0 <= row["knn"] <= 1


def test_a_broken_collection_is_one_line(tmp_path):
    write_pictures(tmp_path / "pictures", 24, broken=range(0, 24, 3))
    done = pretrain(
        "--config=configs/simclr_imagenet.py:smoke",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.source=folder:{tmp_path / 'pictures'}",
        "--config.data.workers=1",
    )
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]  # and nothing of memory left over after it
    assert line.startswith("error: config.data.bad_image_share: want at most 2 of the")
    assert len(Workdir(tmp_path / "run").bad_images_file.read_text().splitlines()) > 1
