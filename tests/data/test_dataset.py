"""Examples of any rank and dtype as a set, and what tells one set from another."""

import numpy as np
import pytest

from caco_jax.data.dataset import ArrayDataset, RecordDataset, as_dataset, hold_out
from caco_jax.data.records import ArrayRecords
from caco_jax.schema import ConfigError

RANDOM = np.random.default_rng(0)
EXAMPLES = {
    "images": RANDOM.integers(0, 256, (12, 5, 4, 3), np.uint8),
    "signals": RANDOM.standard_normal((12, 30, 2)).astype(np.float32),
    "tables": RANDOM.standard_normal((12, 7)),
    "tokens": RANDOM.integers(0, 99, (12, 9), np.int32),
    "flags": RANDOM.integers(0, 2, (12, 3)).astype(bool),
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_of_any_rank_and_dtype_are_a_set(kind):
    examples = EXAMPLES[kind]
    found = as_dataset(examples)
    assert found.train_examples.dtype == examples.dtype
    np.testing.assert_array_equal(found.train_examples, examples)
    assert found.test_examples.shape == (0, *examples.shape[1:])
    assert (found.train_count, found.num_classes, found.in_memory) == (12, 0, True)
    assert not found.has_labels
    assert as_dataset(list(examples)).digest() == found.digest()


def test_a_set_and_a_set_of_ones_own_come_back_as_they_are():
    class Own:
        train_count = 3

    for known in (as_dataset(EXAMPLES["tables"]), Own()):
        assert as_dataset(known) is known


@pytest.mark.parametrize(
    "labels",
    [np.arange(40) % 4, np.array(list("dacb") * 10), np.array([5.5, 7, 9, 11] * 10)],
    ids=["numbers", "names", "floats"],
)
def test_labels_of_any_kind_are_numbered_and_a_tenth_of_each_is_held_out(labels):
    examples = np.arange(40.0)[:, None]
    found = as_dataset((examples, labels), name="own", seed=3)
    assert found.name == "own"
    assert found.class_names == tuple(map(str, sorted(set(labels.tolist()))))
    assert (len(found.train_examples), len(found.test_examples)) == (36, 4)
    assert sorted(found.test_labels) == [0, 1, 2, 3]
    names = np.unique(labels)
    for part in ("train", "test"):
        rows = getattr(found, f"{part}_examples")[:, 0].astype(int)
        numbers = getattr(found, f"{part}_labels")
        assert numbers.dtype == np.int32
        np.testing.assert_array_equal(names[numbers], labels[rows])
    kept = np.concatenate([found.train_examples, found.test_examples])
    assert sorted(kept[:, 0]) == list(range(40))
    more = as_dataset((examples, labels), held_out=0.3)
    assert len(more.test_examples) == 12


def test_what_is_held_out_follows_the_seed_and_leaves_something_of_each_class():
    labels = np.array([0] * 20 + [1] * 2 + [2], np.int32)
    train, test = hold_out(labels, seed=1)
    assert sorted([*train, *test]) == list(range(23))
    np.testing.assert_array_equal(np.bincount(labels[test]), [2, 1])
    np.testing.assert_array_equal(np.bincount(labels[train]), [18, 1, 1])
    assert list(test) == sorted(test)
    np.testing.assert_array_equal(hold_out(labels, seed=1)[1], test)
    assert list(hold_out(labels, seed=2)[1]) != list(test)
    np.testing.assert_array_equal(
        np.bincount(labels[hold_out(labels, seed=1, share=0.99)[0]]), [1, 1, 1]
    )
    train, test = hold_out(np.arange(3, dtype=np.int32), seed=0)
    assert (list(train), list(test)) == ([0, 1, 2], [])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(4), r"examples \[M, \.\.\.\] of one shape, .* got float64 \(4,\)"),
        ([np.zeros(2), np.zeros(3)], "expected examples of one shape, got several"),
        (np.zeros((1, 4)), r"M at least 2, got float64 \(1, 4\)"),
        (np.zeros((0, 4)), r"got float64 \(0, 4\)"),
        (np.array([[1], ["a"]], object), r"got object \(2, 1\)"),
        (np.array([["a"], ["b"]]), r"expected numbers, .* got <U1 \(2, 1\)"),
        (
            (np.zeros((3, 2)), np.zeros(2, int)),
            r"each of 3 examples, got labels \(2,\)",
        ),
        ((np.zeros((3, 2)), np.zeros((3, 1))), r"got labels \(3, 1\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(data, message):
    with pytest.raises(ConfigError, match=f"^data: .*{message}"):
        as_dataset(data)


def test_held_out_examples_are_like_the_others():
    kinds = np.zeros((3, 4)), np.zeros((3, 4), np.float32), np.zeros((3, 5))
    for other in kinds[1:]:
        with pytest.raises(
            ValueError, match=r"own: .* like those to train on, float64"
        ):
            ArrayDataset("own", kinds[0], None, other, None)
    with pytest.raises(ValueError, match="one label for each of 3 test examples"):
        labels = np.zeros(3, np.int32)
        ArrayDataset("own", kinds[0], labels, kinds[0], labels[:2])


def test_a_digest_tells_contents_shapes_and_dtypes_apart():
    base = np.arange(24, dtype=np.int32).reshape(6, 4)
    changed = base.copy()
    changed[5, 3] += 1
    others = (changed, base[::-1], base.reshape(6, 2, 2), base.view(np.float32))
    digests = [as_dataset(examples).digest() for examples in (base, *others)]
    assert len(set(digests)) == 5
    assert as_dataset(base.copy()).digest() == digests[0]
    assert as_dataset(np.asfortranarray(base)).digest() == digests[0]
    # What is held out and what it is called is not trained on.
    named = ArrayDataset("other", base, None, changed, None)
    assert named.digest() == digests[0]


def test_a_digest_of_images_is_the_one_that_runs_have_saved():
    images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
    assert as_dataset(images).digest() == (
        "48aeecc96178e2d756f3775a01199db7ac402dce0484a6a8f2a75bde93fa1128"
    )


def test_a_streamed_set_is_told_by_its_count_and_by_some_of_its_records():
    images = EXAMPLES["images"]
    streamed = as_dataset(images).as_records()
    assert isinstance(streamed, RecordDataset)
    assert (streamed.train_count, streamed.in_memory) == (12, False)
    again = RecordDataset("other", ArrayRecords("other", images.copy()), workers=3)
    assert again.digest() == streamed.digest()
    for other in (images[:11], 255 - images):
        digest = RecordDataset("other", ArrayRecords("other", other)).digest()
        assert digest != streamed.digest()
    assert streamed.digest() != as_dataset(images).digest()
