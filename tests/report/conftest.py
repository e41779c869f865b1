"""Tiny runs on disk, as pretraining leaves them, and what a report finds there."""

import jax
import numpy as np
import pytest

from caco_jax import Pretraining, methods
from caco_jax.config.build import build_run
from caco_jax.data.dataset import ArrayDataset
from caco_jax.data.sources import make_fake_set
from caco_jax.report.collect import collect
from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.workdir import Workdir, write_json
from caco_jax.training.sharding import make_mesh
from tests.runs import tiny

HOSTILE = "</script><script>alert(1)</script>"
SIGNALS = np.random.default_rng(0).standard_normal((120, 16, 2)).astype(np.float32)
LABELS = np.array(["calm", "wild", "odd"])[np.arange(120) % 3]


def save_run(path, pretraining, change=lambda state: state, epochs=4):
    """A run that is done, with metric lines of so many epochs; read back."""
    files = Workdir(path)
    files.claim(pretraining.description.values)
    with Checkpoints(files) as checkpoints:
        checkpoints.save(change(pretraining.initial_state()))
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "step": 2 * epoch, "loss": 4.0 / epoch}
        row |= {"embedding_std": 0.9, "cross_entropy": 3.0 / epoch}
        files.append_metrics(row | ({"knn": 0.1 * epoch} if epoch % 2 == 0 else {}))
    return pretraining.load(path)


def of_classes(names):
    """Fake images of classes with these names; without labels if there are none."""
    images = make_fake_set("8x8x1x48")
    labels = {
        f"{part}_labels": getattr(images, f"{part}_labels") % len(names)
        if names
        else None
        for part in ("train", "test")
    }
    return ArrayDataset(
        "fake", images.train_examples, labels["train_labels"], images.test_examples,
        labels["test_labels"], names,
    )  # fmt: skip


@pytest.fixture(scope="package")
def run(devices, tmp_path_factory):
    """A CaCo run with two evaluations beside it."""
    pretraining = build_run(tiny.config(seed=3), mesh=make_mesh(devices[:1]))
    found = save_run(tmp_path_factory.mktemp("report") / "caco", pretraining)
    linear = {"accuracy": 0.5, "top5": 0.9, "interval": [0.3, 0.7]}
    write_json(
        found.files.path / "linear_probe.json",
        {"step": 0, "images": "fake", "protocol": "lbfgs", **linear}
        | {"by_class": {HOSTILE: 0.25, "b": None, "c": 1.0}},
    )
    health = {"images": 12, "features": 8, "effective_rank": 0.1, "deviation": 0.5}
    write_json(found.files.path / "health.json", {"step": 0, **health})
    return found


@pytest.fixture(scope="package")
def workdir(run):
    """The directory of that run."""
    return run.files.path


@pytest.fixture(scope="package")
def hostile_values(run):
    """What a report of the run shows, whose first class has a hostile name."""
    data = of_classes((HOSTILE, "b & b", 'c"c'))
    return collect(
        run._replace(pretraining=run.pretraining.replace(data=data), data=data)
    )


def shifted(key, signal):
    return np.float32(0.5) + signal + 0.1 * jax.random.normal(key, signal.shape)


@pytest.fixture(scope="package")
def signals(devices, tmp_path_factory):
    """A run that was built in Python, of examples that are no images."""
    parts = Pretraining(
        method=methods.caco(bank_size=24, temperature=0.5, bank_temperature=0.4),
        encoder=tiny.TinyEncoder(),
        views=(shifted, shifted),
        data=(SIGNALS, LABELS),
        batch_size=18,
        epochs=6,
        mesh=make_mesh(devices[:1]),
    )
    return save_run(tmp_path_factory.mktemp("signals") / "run", parts)
