"""A run goes on with the images that it began with, wherever they lie now."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from caco_jax.runs.progress import RunProgress
from caco_jax.runs.workdir import Workdir
from caco_jax.schema import UserError
from tests.runs import tiny
from tests.runs.test_checkpoints import snapshot

OTHERS = r"^--workdir: expected the images of the existing run.* put back"
SETTINGS = {
    "data__source": "folder:pictures",
    "data__views": "cifar",
    "data__view_size": 8,
    "training__batch_size": 8,
    "evaluation__knn_every_epochs": 2,
}


def run_of(path, **changes):
    """A run on the pictures of a place."""
    settings = {**SETTINGS, "data__data_dir": str(path), **changes}
    return tiny.run("simclr", **settings)


def write_pictures(place, *, seed):
    rng = np.random.default_rng(seed)
    for index in range(20):
        folder = place / "pictures" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return place


def test_a_run_goes_on_where_its_images_are_elsewhere(tmp_path):
    here, workdir = write_pictures(tmp_path / "here", seed=0), tmp_path / "run"
    streamed = {"data__max_resident_bytes": 0, "data__workers": 0}
    run_of(here, training__epochs=1, **streamed).fit(workdir)
    elsewhere = here.rename(tmp_path / "there")
    moved = run_of(
        elsewhere, training__epochs=2, data__max_resident_bytes=1, data__workers=None
    )
    again = moved.fit(workdir, changes=["training.epochs"])
    assert again["epochs"] == 2
    assert Workdir(workdir).read_config()["data"]["data_dir"] == str(elsewhere)

    before = snapshot(workdir)
    in_memory = run_of(elsewhere, training__epochs=2)
    other = write_pictures(tmp_path / "other", seed=1)
    other = run_of(other, training__epochs=2, **streamed)
    for changed in (in_memory, other):
        for start in (changed.dry_run, changed.fit):
            with pytest.raises(UserError, match=OTHERS):
                start(workdir)
    before["."] = snapshot(workdir)["."]
    assert snapshot(workdir) == before


def test_sets_are_told_apart_by_what_is_in_them():
    images = tiny.run().data
    assert images.digest() == tiny.run(data__workers=3).data.digest()
    digests = {images.digest(), images.as_records().digest()}
    for source in ("fake:8x8x1x47", "fake:8x8x1x48"):
        other = tiny.run(data__source=source, data__split_seed=1).data
        digests |= {other.digest(), other.as_records().digest()}
    assert len(digests) == 6


class Gone:
    """Records that cannot be read any more."""

    def __init__(self, records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        raise OSError("it is gone")


def test_a_record_that_cannot_be_read_is_not_the_digests_to_judge():
    images = tiny.run().data.as_records()
    gone = dataclasses.replace(images, train=Gone(images.train))
    assert gone.digest() != images.digest()


@pytest.mark.parametrize(
    "steps, digest, changes, message",
    [
        (3, "a", [], None),
        (3, "b", ["data.source"], None),
        (3, "b", ["training.epochs"], OTHERS),
        (4, "a", [], r"^--resume_with_changes: expected 3 steps .* got 4;"),
        (4, "b", ["data.source"], r"expected 3 steps in an epoch, as before, got 4"),
    ],
)
def test_what_progress_goes_on_with(steps, digest, changes, message):
    how = {"epoch_steps": steps, "image_digest": digest, "changes": changes}
    RunProgress().require_same_images(**how)
    progress = RunProgress(epoch_steps=3, image_digest="a")
    if message is None:
        progress.require_same_images(**how)
        return
    with pytest.raises(UserError, match=message) as caught:
        progress.require_same_images(**how)
    assert "\n" not in str(caught.value)


def test_keys_that_say_where_and_how_images_are_read_may_differ(tmp_path):
    files = Workdir(tmp_path / "run")
    there = {"method": {"name": "x"}, "data": {"data_dir": None, "workers": 1}}
    files.claim(there)
    for key, value in (("data_dir", "/a"), ("workers", 2), ("max_resident_bytes", 3)):
        files.compare({**there, "data": {**there["data"], key: value}})
    with pytest.raises(UserError, match=r"with another: data\.views \(None"):
        files.compare({**there, "data": {**there["data"], "views": "cifar"}})
