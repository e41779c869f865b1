"""Neighbours and votes against loops in NumPy and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from caco_jax.evaluation import knn, neighbours

CLASSES = 4


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    bank = _unit(rng.standard_normal((30, 6)))
    queries = _unit(rng.standard_normal((9, 6)))
    return queries, bank, rng.integers(0, CLASSES, 30), rng.integers(0, CLASSES, 9)


def _votes(queries, bank, labels, k, temperature):
    votes = np.zeros((len(queries), CLASSES))
    for n, query in enumerate(queries):
        cosines = bank @ query
        for m in sorted(range(len(bank)), key=lambda m, c=cosines: -c[m])[:k]:
            weight = (
                cosines[m] if temperature is None else np.exp(cosines[m] / temperature)
            )
            votes[n, labels[m]] += weight
    return votes


@pytest.mark.parametrize("block", [None, 7])
@pytest.mark.parametrize("temperature", [None, 0.2])
@pytest.mark.parametrize("k", [1, 10])
def test_votes_against_a_loop(arrays, k, temperature, block):
    queries, bank, labels, wanted = arrays
    want = _votes(queries, bank, labels, k, temperature)
    with jax.enable_x64(True):
        setting = {"num_classes": CLASSES, "k": k, "temperature": temperature}
        got = knn.knn_votes(queries, bank, labels, block_size=block, **setting)
        won = knn.knn_predict(queries, bank, labels, block_size=block, **setting)
        (accuracy,) = knn.knn_accuracy(
            queries,
            wanted,
            bank,
            labels,
            num_classes=CLASSES,
            settings=[(k, temperature)],
            block_size=block,
        )
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(won, want.argmax(axis=1))
    assert accuracy == pytest.approx(np.mean(want.argmax(axis=1) == wanted))


def test_scikit_learn_votes_the_same(arrays):
    queries, bank, labels, _ = arrays
    theirs = KNeighborsClassifier(
        10, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.2)
    ).fit(bank, labels)
    votes = np.asarray(
        knn.knn_votes(queries, bank, labels, num_classes=CLASSES, k=10, temperature=0.2)
    )
    shares = votes / votes.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, theirs.predict_proba(queries), rtol=1e-4)


def test_several_settings_agree_with_one_at_a_time(arrays):
    queries, bank, labels, wanted = arrays
    pairs = [(3, None), (20, 0.2), (1, 0.07)]
    data = (queries, wanted, bank, labels)
    together = knn.knn_accuracy(*data, num_classes=CLASSES, settings=pairs)
    alone = [
        knn.knn_accuracy(*data, num_classes=CLASSES, settings=[p])[0] for p in pairs
    ]
    assert together == alone


def test_votes_by_hand():
    one = np.ones((1, 1), np.float32)
    votes = knn.knn_votes(
        one, np.ones((5, 1)), np.asarray([0, 0, 0, 1, 1]), num_classes=3, k=4,
        temperature=0.5,
    )  # fmt: skip
    np.testing.assert_allclose(votes, np.exp(2) * np.asarray([[3, 1, 0]]), rtol=1e-6)


def test_a_permuted_bank_votes_the_same(arrays):
    queries, bank, labels, _ = arrays
    order = np.random.default_rng(1).permutation(len(bank))
    setting = {"num_classes": CLASSES, "k": 10, "temperature": 0.1}
    np.testing.assert_allclose(
        knn.knn_votes(queries, bank, labels, **setting),
        knn.knn_votes(queries, bank[order], labels[order], **setting),
        rtol=1e-5,
    )


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_low_temperatures_still_vote(arrays, dtype):
    queries, bank, labels, _ = arrays
    queries, bank = jnp.asarray(queries, dtype), jnp.asarray(bank, dtype)
    won = knn.knn_predict(
        queries, bank, labels, num_classes=CLASSES, k=10, temperature=1e-3
    )
    similarity, nearest = neighbours.nearest_neighbours(queries, bank, k=1)
    assert similarity.dtype == np.float32
    np.testing.assert_array_equal(won, labels[nearest[:, 0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 31}, "k: expected 1 to 30, the rows of the bank, got 31"),
        ({"k": 0}, "k: expected 1 to 30, .*got 0"),
        ({"temperature": 0.0}, r"temperature: expected a number > 0, got 0\.0"),
        ({"block_size": 0}, "block_size: expected at least 1, got 0"),
        ({"num_classes": 2}, "labels: expected classes 0 to 1, got 0 to 3"),
        (
            {"bank_labels": np.zeros(3, int)},
            r"labels: expected one for each of the 30 rows",
        ),
        ({"bank_labels": np.zeros(30)}, "labels: expected integers, got float64"),
        ({"features": np.ones((9, 5))}, r"\(9, 5\) and \(30, 6\)"),
        (
            {"bank_features": np.full((30, 6), np.nan)},
            "features: expected finite numbers",
        ),
    ],
)
def test_bad_input(arrays, change, message):
    queries, bank, labels, _ = arrays
    good = {
        "features": queries,
        "bank_features": bank,
        "bank_labels": labels,
        "num_classes": CLASSES,
        "k": 5,
        "temperature": 0.1,
    }
    for function in (knn.knn_votes, knn.knn_predict):
        with pytest.raises(ValueError, match=message):
            function(**(good | change))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "settings: expected at least one pair"),
        ([(0, 0.2), (5, 0.2)], "k: expected at least 1, got 0"),
        ([(5, 0.2), (31, 0.2)], "k: expected 1 to 30"),
    ],
)
def test_bad_settings(arrays, pairs, message):
    queries, bank, labels, wanted = arrays
    with pytest.raises(ValueError, match=message):
        knn.knn_accuracy(
            queries, wanted, bank, labels, num_classes=CLASSES, settings=pairs
        )
