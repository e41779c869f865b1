"""Tiny runs on disk, as pretraining leaves them, and what a report finds there."""

import pytest

from caco_jax.data.sources import ArrayDataset, make_fake_set
from caco_jax.report.collect import collect
from caco_jax.runs.checkpoints import Checkpoints, Workdir, write_json
from caco_jax.runs.fit import config_values
from caco_jax.runs.run import load_run
from caco_jax.training.sharding import make_mesh
from tests.runs import tiny

HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture(scope="package")
def tiny_parts(devices):
    """The tiny encoder on two devices, whatever a configuration says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "make_encoder", lambda *_, **__: tiny.TinyEncoder())
        patch.setattr(assemble, "make_mesh", lambda: make_mesh(devices[:2]))
        yield patch


def save_run(path, config, change=lambda state: state, epochs=4):
    """A run that is done, with metric lines of so many epochs."""
    files = Workdir(path)
    experiment = assemble.assemble(config)
    files.claim(config_values(experiment))
    state = change(assemble.initial_state(experiment))
    with Checkpoints(files) as checkpoints:
        checkpoints.save(state)
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "step": 2 * epoch, "loss": 4.0 / epoch}
        row |= {"embedding_std": 0.9, "cross_entropy": 3.0 / epoch}
        files.append_metrics(row | ({"knn": 0.1 * epoch} if epoch % 2 == 0 else {}))
    return files.path


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
def workdir(tiny_parts, tmp_path_factory):
    """A CaCo run with two evaluations beside it."""
    config = tiny.config(seed=3)
    path = save_run(tmp_path_factory.mktemp("report") / "caco", config)
    linear = {"accuracy": 0.5, "top5": 0.9, "interval": [0.3, 0.7]}
    write_json(
        path / "linear_probe.json",
        {"step": 0, "images": "fake", "protocol": "lbfgs", **linear}
        | {"by_class": {HOSTILE: 0.25, "b": None, "c": 1.0}},
    )
    health = {"images": 12, "features": 8, "effective_rank": 0.1, "deviation": 0.5}
    write_json(path / "health.json", {"step": 0, **health})
    return path


@pytest.fixture(scope="package")
def run(workdir):
    """The run, read back."""
    return load_run(workdir)


@pytest.fixture(scope="package")
def hostile_values(tiny_parts, workdir):
    """What a report of the run shows, whose first class has a hostile name."""
    names = (HOSTILE, "b & b", 'c"c')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "load_images", lambda _: of_classes(names))
        return collect(str(workdir))
