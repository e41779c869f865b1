"""Labelled batches: every row with its own label, from memory or streamed."""

import dataclasses
import pickle

import numpy as np
import pytest

from caco_jax.data import labelled, pipeline
from caco_jax.data.dataset import ArrayDataset, RecordDataset
from caco_jax.data.decode import random_resized_crops
from caco_jax.data.records import ArrayRecords, Record
from caco_jax.data.view_kinds import DigitView, PhotoView, Views

COUNT, CLASSES = 20, 4
RANDOM = np.random.default_rng(0)
LABELS = np.arange(COUNT, dtype=np.int32) % CLASSES
# Every pixel of an image says which it is.
IMAGES = np.broadcast_to(
    np.arange(COUNT, dtype=np.uint8)[:, None, None, None], (COUNT, 6, 6, 3)
)


class Damaged:
    """Records, one of which is no image."""

    def __init__(self, records, row):
        self.records, self.row = records, row

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        record = self.records[index]
        return Record(b"no image", 0, "broken") if index == self.row else record


def image_set():
    return ArrayDataset("four", IMAGES, LABELS, IMAGES[:8], LABELS[:8], tuple("abcd"))


def record_set(broken=None, **options):
    train = ArrayRecords("four/train", IMAGES, LABELS)
    if broken is not None:
        train = Damaged(train, broken)
    test = ArrayRecords("four/test", IMAGES[:8], LABELS[:8])
    return RecordDataset("four", train, test, tuple("abcd"), workers=0, **options)


def parts(dataset):
    return labelled.labelled_parts(dataset, size_pixels=4)


def ids_of(pixels):
    """Which image each row of a batch shows."""
    pixels = pixels[0] if isinstance(pixels, tuple) else pixels
    assert (pixels == pixels[:, :1, :1, :1]).all()
    return pixels[:, 0, 0, 0]


SETS = {"memory": image_set, "stream": record_set}


@pytest.mark.parametrize("kind", SETS)
def test_each_epoch_has_all_rows_once_with_their_labels(kind):
    train, test = parts(SETS[kind]())
    assert (len(train), len(test)) == (COUNT, 8)
    rows = np.array([1, 2, 3, 5, 8, 13, 19])
    with train.batches(rows, seed=3, batch_size=3, epochs=2) as steps:
        found = [(ids_of(pixels), labels) for pixels, labels in steps]
    assert len(found) == 4  # a seventh row is left out of each epoch
    for ids, labels in found:
        np.testing.assert_array_equal(labels, ids % CLASSES)
    epochs = [np.concatenate([ids for ids, _ in found[i : i + 2]]) for i in (0, 2)]
    for ids in epochs:
        assert len(set(ids) & set(rows)) == 6
    assert list(epochs[0]) != list(epochs[1])


def test_memory_and_stream_have_the_same_order():
    found = []
    for make in SETS.values():
        train, _ = parts(make())
        with train.batches(np.arange(20), seed=7, batch_size=10, epochs=1) as steps:
            found.append([list(ids_of(pixels)) for pixels, _ in steps])
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", SETS)
def test_centers_are_the_rows_in_order(kind):
    _, test = parts(SETS[kind]())
    pieces = list(test.centers(np.array([6, 0, 3])))
    np.testing.assert_array_equal(
        np.concatenate([ids_of(p) for p, _ in pieces]), [6, 0, 3]
    )
    np.testing.assert_array_equal(np.concatenate([y for _, y in pieces]), [2, 0, 3])


def test_an_unreadable_image_gives_way_to_the_next_row_and_its_label():
    train, _ = parts(record_set(broken=5, bad_share=0.1))
    rows = np.array([4, 5, 7])
    with train.batches(rows, seed=0, batch_size=3, epochs=1) as steps:
        ((pixels, labels),) = list(steps)
    assert sorted(ids_of(pixels)) == [4, 7, 7]
    np.testing.assert_array_equal(labels, ids_of(pixels) % CLASSES)
    assert list(train.bad.reasons) == [5]


def test_workers_get_a_copy():
    source = labelled.LabelledCrops(
        record_set().train,
        [labelled.CropSpec(4, (0.5, 1.0), (1.0, 1.0))],
        seed=(1,),
        batch_size=4,
        steps=2,
        chosen=np.arange(9),
        epochs=2,
    )
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == 4
    for index in range(4):
        np.testing.assert_array_equal(source[index].views, again[index].views)
        np.testing.assert_array_equal(source[index].labels, again[index].labels)


def test_substitutes_are_drawn_on_with_the_generator_of_the_row():
    spec = labelled.CropSpec(4, (0.2, 1.0), (0.5, 2.0))
    rows, seed = np.array([4, 5, 7]), 9
    pictures = ArrayRecords("noise", RANDOM.integers(0, 256, IMAGES.shape, np.uint8))
    source = labelled.LabelledCrops(
        Damaged(pictures, 5),
        [spec],
        seed=(seed,),
        batch_size=3,
        steps=1,
        chosen=rows,
        epochs=1,
    )
    ((crops,), _, _) = source[0]
    order = pipeline.epoch_order((seed,), 0, 3)
    for place, shown in enumerate(rows[order]):
        rng = np.random.default_rng((seed, 0, place))
        row = 7 if shown == 5 else shown
        (expected,) = random_resized_crops(rng, pictures[row], [spec])
        np.testing.assert_array_equal(crops[place], expected)


def test_a_share_of_the_rows_has_that_share_of_each_class():
    train, _ = parts(image_set())
    rows = labelled.choose_rows(train, share=0.4, seed=0)
    np.testing.assert_array_equal(np.bincount(LABELS[rows]), [2, 2, 2, 2])
    assert list(rows) == sorted(set(rows))
    few = labelled.choose_rows(train, share=0.01, seed=0)
    np.testing.assert_array_equal(np.bincount(LABELS[few]), [1, 1, 1, 1])
    assert list(labelled.choose_rows(train, share=1.0, seed=5)) == list(range(COUNT))
    assert list(rows) != list(labelled.choose_rows(train, share=0.4, seed=1))
    streamed, _ = parts(record_set())
    assert len(labelled.choose_rows(streamed, share=0.4, seed=0)) == 8


def test_photographs_are_cropped_and_mirrored_and_digits_are_not():
    small = PhotoView(size_pixels=9)
    view = labelled.training_view(Views((PhotoView(size_pixels=12), small)))
    assert (view.size_pixels, view.crop_scale) == (12, (0.08, 1.0))
    assert view.flip_probability == 0.5
    for field in dataclasses.fields(view):
        if field.name.endswith("probability") and field.name != "flip_probability":
            assert getattr(view, field.name) == 0
    digit = DigitView()
    assert labelled.training_view(Views((digit, digit))) is digit


def test_no_labels_and_no_share():
    bare = ArrayDataset("bare", IMAGES, None, IMAGES, None)
    with pytest.raises(ValueError, match="got bare without"):
        parts(bare)
    with pytest.raises(
        ValueError, match=r"share: expected a number in \(0, 1\], got 0"
    ):
        labelled.choose_rows(parts(image_set())[0], share=0, seed=0)
