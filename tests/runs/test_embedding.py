"""Embeddings of a set in a file: all of it, whatever happens on the way."""

import logging
import os
import pathlib

import jax
import numpy as np
import pytest
from pyarrow import parquet

from caco_jax.config.build import load_run
from caco_jax.data import decode
from caco_jax.data.dataset import ArrayDataset, RecordDataset
from caco_jax.data.records import ArrayRecords, FolderRecords, SourceGoneError
from caco_jax.data.sources import load
from caco_jax.runs.embedding import embed_dataset
from caco_jax.runs.preemption import Stop, Stopped
from caco_jax.schema import UserError
from tests.data.pictures import write_pictures, write_squares
from tests.experiments.commands import save_run

# One worker runs them all: they share runs and what they compile.
pytestmark = pytest.mark.xdist_group("embedding")
COUNT = 300  # three batches, the last one of 44


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on small grey images in memory."""
    return load_run(save_run(tmp_path_factory.mktemp("runs") / "grey"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A run on photographs that are streamed."""
    workdir = save_run(
        tmp_path_factory.mktemp("runs") / "photos",
        *("data.source=fake:8x8x3x48", "data.max_resident_bytes=0"),
        *("data.views=moco_v2", "data.view_size=8"),
    )
    return load_run(workdir)


def grey(count=COUNT, *, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), np.uint8)


class Counted(ArrayRecords):
    """Records that remember which were asked for."""

    def __init__(self, images):
        super().__init__("made", images)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


class After(Stop):
    """Is asked to end after so many batches."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def requested(self):
        self.left -= 1
        return self.left <= 0


def read(file):
    with np.load(file) as arrays:
        return dict(arrays)


def test_all_splits_of_a_set_are_there_as_evaluation_sees_them(run, tmp_path):
    found = embed_dataset(run, run.data, tmp_path / "new" / "own.npz")
    arrays = read(tmp_path / "new" / "own.npz")
    train, test = run.features()
    features = np.concatenate([train.features, test.features])
    np.testing.assert_allclose(arrays["features"], features, rtol=1e-6)
    labels = np.concatenate([train.labels, test.labels])
    np.testing.assert_array_equal(arrays["labels"], labels)
    assert (found.rows, found.features, found.bad) == (80, 8, 0)
    assert arrays["names"][0] == "fake:8x8x1x64/train[0]"
    assert arrays["splits"].tolist() == ["train"] * 64 + ["test"] * 16
    assert arrays["class_names"].tolist() == [f"class {c}" for c in range(10)]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["own.npz"]


def test_the_projectors_output_is_what_the_loss_sees(run, tmp_path):
    embed_dataset(run, run.data, tmp_path / "own.npz", kind="embedding")
    train, _ = run.features(kind="embedding")
    found = read(tmp_path / "own.npz")["features"][:64]
    np.testing.assert_allclose(found, train.features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["grey run", "photographs"])
def test_a_flat_folder_of_any_pictures_is_embedded(run, photos, tmp_path, kind):
    names = write_pictures(tmp_path / "flat", 9, broken=[4])
    dataset = load(f"folder:{tmp_path / 'flat'}")
    used = run if kind == "grey run" else photos
    found = embed_dataset(used, dataset, tmp_path / "flat.npz")
    arrays = read(tmp_path / "flat.npz")
    good = [str(tmp_path / "flat" / name) for name in names if name != "4.jpg"]
    assert arrays["names"].tolist() == good
    assert (arrays["labels"] == -1).all()
    records = [record for record in dataset.train if record.name in good]
    if used is photos:
        crops = [decode.center_crop(record, size_pixels=8) for record in records]
        expected = used.embed(np.stack(crops))
    else:
        expected = [used.embed(decode.decode_image(one)[None])[0] for one in records]
    np.testing.assert_allclose(arrays["features"], expected, rtol=1e-5)
    assert (found.rows, found.bad) == (8, 1)
    listed = found.bad_file.read_text().splitlines()
    assert len(listed) == 1
    assert listed[0].startswith(f"{tmp_path / 'flat' / '4.jpg'}: truncated")


def test_pictures_of_the_runs_size_stay_as_they_are(run, photos, tmp_path):
    write_squares(tmp_path / "small", 6)
    folder = f"folder:{tmp_path / 'small'}"
    streamed = load(folder, max_resident_bytes=0)
    embed_dataset(run, streamed, tmp_path / "small.npz")
    in_memory = load(folder)
    assert isinstance(in_memory, ArrayDataset)
    np.testing.assert_allclose(
        read(tmp_path / "small.npz")["features"],
        run.embed(in_memory.train_examples),
        rtol=1e-6,
    )


@pytest.mark.parametrize("batches", [1, 2])
def test_what_was_stopped_goes_on_where_it_was(run, tmp_path, batches):
    images, out = grey(), tmp_path / "a.npz"
    with pytest.raises(Stopped) as stopped:
        embed_dataset(run, set_of(Counted(images)), out, stop=After(batches))
    done = 128 * batches
    assert str(stopped.value) == (
        f"{done} of 300 images are done; rerun the same command to resume"
    )
    assert not out.exists()
    rest = Counted(images)
    embed_dataset(run, set_of(rest), out)
    assert min(rest.read[-(COUNT - done) :]) == done
    assert len([row for row in rest.read if row < done]) < 32 + 1  # of the digest
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    np.testing.assert_allclose(
        read(out)["features"], run.embed(images), rtol=1e-6, atol=1e-6
    )


def set_of(records):
    return RecordDataset("made", records)


def test_a_part_that_is_not_whole_is_made_again(run, tmp_path):
    images, out = grey(), tmp_path / "a.npz"
    with pytest.raises(Stopped):
        embed_dataset(run, set_of(Counted(images)), out, stop=After(2))
    (part,) = (tmp_path / "a.npz.parts").glob("*.npz")
    part.write_bytes(part.read_bytes()[:1000])
    embed_dataset(run, set_of(Counted(images)), out)
    assert len(read(out)["names"]) == COUNT


@pytest.mark.parametrize("change", ["features", "images", "network"])
def test_parts_of_something_else_are_not_gone_on_with(run, tmp_path, caplog, change):
    images, out = grey(), tmp_path / "a.npz"
    with pytest.raises(Stopped):
        embed_dataset(run, set_of(Counted(images)), out, stop=After(1))
    kind = "embedding" if change == "features" else "backbone"
    if change == "images":
        images = grey(seed=1)
    elif change == "network":
        run = changed(run, lambda leaf: leaf + 1)
    with caplog.at_level(logging.INFO, logger="caco_jax"):
        embed_dataset(run, set_of(Counted(images)), out, kind=kind)
    assert "is of other images or of another network: starting over" in caplog.text
    features = read(out)["features"]
    assert len(features) == COUNT
    if kind == "backbone":
        np.testing.assert_allclose(features, run.embed(images), rtol=1e-5, atol=1e-5)


def changed(run, change):
    """The run with other parameters."""
    players = {"encoder": jax.tree.map(change, run.state.players["encoder"])}
    return run._replace(state=run.state._replace(players=players))


class Vanishing(ArrayRecords):
    """Records of a drive that goes away after the first batch."""

    seen = -1

    def __getitem__(self, index):
        self.seen = max(self.seen, index * (index == self.seen + 1))
        if self.seen >= 128:
            raise SourceGoneError("data.source: nothing in it can be read any more")
        return super().__getitem__(index)


def test_a_drive_that_goes_away_is_waited_for_by_the_scheduler(run, tmp_path):
    images = grey()
    with pytest.raises(Stopped, match=r"any more; 128 of 300 images are done; rerun"):
        embed_dataset(run, set_of(Vanishing("made", images)), tmp_path / "a.npz")
    embed_dataset(run, set_of(ArrayRecords("made", images)), tmp_path / "a.npz")
    assert len(read(tmp_path / "a.npz")["names"]) == COUNT


def test_parquet_has_the_same_as_a_table(run, tmp_path):
    folder = tmp_path / "pictures"
    for name in ("cats", "dogs"):
        write_squares(folder / name, 3)
    odd = os.fsencode(folder / "dogs") + b"/9\xff.png"
    (folder / "dogs" / "2.png").rename(pathlib.Path(os.fsdecode(odd)))
    dataset = load(f"folder:{folder}", max_resident_bytes=0)
    embed_dataset(run, dataset, tmp_path / "a.npz")
    embed_dataset(run, dataset, tmp_path / "a.parquet")
    arrays = read(tmp_path / "a.npz")
    table = parquet.read_table(tmp_path / "a.parquet")
    columns = table.to_pydict()
    assert list(columns) == ["name", "split", "label", "class", "features"]
    np.testing.assert_array_equal(columns["features"], arrays["features"])
    assert columns["label"] == arrays["labels"].tolist()
    assert columns["split"] == arrays["splits"].tolist()
    assert columns["class"] == [dataset.class_names[k] for k in columns["label"]]
    assert os.fsdecode(odd) in arrays["names"].tolist()
    assert f"{folder}/dogs/9\\udcff.png" in columns["name"]


def test_a_table_without_labels_says_so(run, tmp_path):
    embed_dataset(run, set_of(ArrayRecords("made", grey(3))), tmp_path / "a.parquet")
    columns = parquet.read_table(tmp_path / "a.parquet").to_pydict()
    assert columns["label"] == columns["class"] == [None] * 3


def test_where_nothing_can_be_read_nothing_is_written(run, tmp_path):
    names = write_pictures(tmp_path / "bad", 2, broken=[0, 1])
    records = FolderRecords(tmp_path / "bad", names)
    with pytest.raises(UserError, match=r"^--source: expected images that can be read"):
        embed_dataset(run, set_of(records), tmp_path / "a.npz")
    assert not (tmp_path / "a.npz").exists()


def test_features_that_are_not_finite_are_refused(run, tmp_path):
    spoilt = changed(run, lambda leaf: leaf * np.nan)
    with pytest.raises(
        UserError, match=r"^--workdir: of made: features: expected finite"
    ):
        embed_dataset(spoilt, set_of(ArrayRecords("made", grey(3))), tmp_path / "a.npz")


def test_one_picture_is_enough(run, tmp_path):
    write_squares(tmp_path / "one", 1)
    embed_dataset(run, load(f"folder:{tmp_path / 'one'}"), tmp_path / "a.npz")
    assert read(tmp_path / "a.npz")["features"].shape == (1, 8)


def test_what_is_no_image_is_refused(run, tmp_path):
    values = np.zeros((4, 5), np.float32)
    vectors = ArrayDataset("vectors", values, None, values[:0], None)
    with pytest.raises(UserError, match=r"^--source: expected examples like those of "):
        embed_dataset(run, vectors, tmp_path / "a.npz")


def test_images_in_memory_become_those_of_the_run(run, photos):
    images = grey(3)
    large = np.kron(images, np.ones((1, 5, 5, 1), np.uint8))
    coloured = np.repeat(large, 3, axis=3)
    assert run.embed(coloured).shape == (3, 8)
    np.testing.assert_array_equal(run.embed(coloured), run.embed(large))
    crops = [decode.center_crop(image, size_pixels=8) for image in large]
    np.testing.assert_array_equal(photos.embed(large), photos.embed(np.stack(crops)))
