"""Preparing a set: the real ImageNet builder on a miniature, and what goes wrong."""

import errno
import hashlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest
import requests
import tensorflow_datasets as tfds

from caco_jax.data import prepare
from caco_jax.schema import UserError
from tests.data.miniature_imagenet import CLASSES, picture, write_tars
from tests.data.tfds_files import write_set

ROOT = pathlib.Path(__file__).parents[2]

# TensorFlow is kept out of the suite's own environment.
BUILDER = os.environ.get("CACO_PREPARE_PYTHON") or (
    sys.executable if importlib.util.find_spec("tensorflow") else None
)

# In this process there is no TensorFlow, whatever is installed.
READER = """
import hashlib, importlib, json, sys
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: (
    None if name.partition(".")[0] == "tensorflow" else find_spec(name, *rest)
)
try:
    importlib.import_module("tensorflow")
    sys.exit("TensorFlow was meant to be hidden")
except ModuleNotFoundError:
    pass

from caco_jax.data.decode import decode_image
from caco_jax.data.sources import load

images = load("tfds:imagenet2012", data_dir=sys.argv[1])
read = {}
for part in ("train", "test"):
    records = getattr(images, part)
    rows = [records[index] for index in range(len(records))]
    read[part] = [
        (hashlib.sha1(row.encoded).hexdigest(), row.label, decode_image(row).shape)
        for row in rows
    ]
print(json.dumps({"classes": images.class_names, **read}))
"""


def python(interpreter, *arguments, **environment):
    """A program's result, run from the repository's root."""
    done = subprocess.run(
        [interpreter, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A miniature ImageNet, prepared by TFDS itself: the images and the directory."""
    if BUILDER is None:
        want = (
            "no TensorFlow: name an interpreter that has caco_jax[prepare] in "
            "CACO_PREPARE_PYTHON; `make prepare` makes one"
        )
        if os.environ.get("CI"):  # which installs it
            pytest.fail(want)
        pytest.skip(want)
    root = tmp_path_factory.mktemp("imagenet")
    images = write_tars(root / "manual")
    command = ["-m", "experiments.prepare_dataset", "--dataset=tfds:imagenet2012"]
    flags = [f"--data_dir={root / 'data'}", f"--manual_dir={root / 'manual'}"]
    done = python(BUILDER, *command, *flags, JAX_PLATFORMS="cpu")
    return *images, root / "data", done.stdout


@pytest.mark.slow
@pytest.mark.xdist_group("imagenet")
def test_miniature_imagenet_is_prepared(imagenet):
    _, held_out, data_dir, printed = imagenet
    directory = data_dir / "imagenet2012" / "5.1.0"
    summary = json.loads((directory / prepare.SUMMARY_FILE).read_text())
    assert summary["classes"] == 1000
    assert summary["splits"]["train"]["images"] == 24
    assert summary["splits"]["validation"]["images"] == len(held_out)
    assert prepare.summary_text(summary) in printed
    assert "train: 24 images" in printed


@pytest.mark.slow
@pytest.mark.xdist_group("imagenet")
def test_miniature_imagenet_is_read_without_tensorflow(imagenet):
    train, held_out, data_dir, _ = imagenet
    read = json.loads(python(sys.executable, "-c", READER, str(data_dir)).stdout)
    assert tuple(read["classes"][:3]) == CLASSES

    def digests(images):
        return {hashlib.sha1(encoded).hexdigest() for encoded in images.values()}

    for label, name in enumerate(CLASSES):
        found = {digest for digest, of, _ in read["train"] if of == label}
        assert found == digests(train[name])
    assert {digest for digest, _, _ in read["test"]} == digests(held_out)
    assert {len(shape) for _, _, shape in read["train"] + read["test"]} == {3}
    heights = {shape[0] for _, _, shape in read["train"]}
    assert heights == {48 - (100 * c + k) % 7 for c in range(3) for k in range(8)}


@pytest.mark.slow
@pytest.mark.xdist_group("imagenet")
def test_miniature_imagenet_is_pretrained_on(imagenet, tmp_path):
    data_dir = imagenet[2]
    python(
        sys.executable,
        *("-m", "experiments.pretrain", "--config=configs/caco_imagenet.py:smoke"),
        "--config.data.source=tfds:imagenet2012",
        *(f"--config.data.data_dir={data_dir}", "--config.data.workers=0"),
        f"--workdir={tmp_path}",
        JAX_PLATFORMS="cpu",
        JAX_COMPILATION_CACHE_DIR=str(jax.config.jax_compilation_cache_dir),
    )
    (row,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert row["loss"] > 0


@pytest.fixture
def prepared(tmp_path):
    splits = {
        "train": [(picture(seed), seed % 2) for seed in range(5)],
        "test": [(picture(9), 1), (b"no image", 0)],
    }
    write_set(tmp_path, "own", splits, class_names=["a", "b"])
    return tmp_path


def test_a_set_that_is_there_is_summed_up_without_tensorflow(prepared):
    summary = prepare.prepare("tfds:own", prepared)
    file = prepared / "own/1.0.0" / prepare.SUMMARY_FILE
    assert json.loads(file.read_text()) == summary
    train, test = summary["splits"]["train"], summary["splits"]["test"]
    assert (summary["classes"], train["images"], test["images"]) == (2, 5, 2)
    assert train["height"] == [44, 46, 48]
    assert train["width"] == [60, 62, 64]
    assert train["bytes"] == sum(len(picture(seed)) for seed in range(5))
    assert (test["looked_at"], test["unreadable"]) == (2, 1)
    text = prepare.summary_text(summary)
    assert "2 classes" in text
    assert "train: 5 images" in text
    assert "height 44/46/48, width 60/62/64 pixels" in text
    assert "(least/median/most of 2), 1 unreadable" in text


def test_only_tfds_sets_are_prepared(tmp_path):
    with pytest.raises(
        UserError, match="expected tfds:NAME as in tfds:cifar10, got cifar"
    ):
        prepare.prepare("cifar10", tmp_path)
    with pytest.raises(UserError, match=r"^--dataset: .* got 'a b'"):
        prepare.prepare("tfds:a b", tmp_path)


def test_without_tensorflow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")  # set by it: to be put back
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    with pytest.raises(UserError, match=r"pip install 'caco_jax\[prepare\]'"):
        prepare.prepare("tfds:cifar10", tmp_path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            requests.ConnectionError("no route\nto host"),
            "--dataset: expected to download tfds:cifar10, got no route to host; check "
            "the network and rerun the command",
        ),
        (
            tfds.core.DatasetNotFoundError("Available datasets:\n - a\n - b"),
            "--dataset: expected a data set of TFDS, got 'cifar10'; check the spelling",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "--data_dir: expected more room on the disk of DIR: [Errno 28] No space "
            "left on device",
        ),
        (
            OSError("Not enough disk space. Needed: 1 TiB"),
            "--data_dir: expected more room on the disk of DIR: Not enough disk space. "
            "Needed: 1 TiB",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            "--data_dir: cannot write to DIR: [Errno 13] Permission denied",
        ),
        (
            AssertionError("Manual directory x does not exist.\nCreate it"),
            "--manual_dir: Manual directory x does not exist. Create it",
        ),
        (
            AssertionError("cannot be loaded at version 9.9.9"),
            "--dataset: cannot be loaded at version 9.9.9",
        ),
        (
            ValueError("BuilderConfig x not found"),
            "--dataset: BuilderConfig x not found",
        ),
    ],
)
def test_what_goes_wrong_is_one_line(tmp_path, monkeypatch, error, message):
    def build(name, data_dir, manual_dir):
        raise error

    monkeypatch.setattr(prepare, "_require_tensorflow", lambda: None)
    monkeypatch.setattr(prepare, "_build", build)
    with pytest.raises(UserError) as raised:
        prepare.prepare("tfds:cifar10", tmp_path)
    assert str(raised.value) == message.replace("DIR", str(tmp_path))
