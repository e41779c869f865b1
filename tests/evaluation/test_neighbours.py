"""The search for neighbours: order, blocks, devices, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caco_jax.evaluation import neighbours
from caco_jax.training.sharding import make_mesh

RANDOM = np.random.default_rng(0)
BANK = RANDOM.standard_normal((30, 6)).astype(np.float32)
QUERIES = RANDOM.standard_normal((9, 6)).astype(np.float32)


def stable_order(queries, bank, k):
    scores = queries @ bank.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 14), st.sampled_from([1, 4]), st.integers(0, 1000))
def test_blocks_and_ties_keep_the_order_of_the_bank(block, k, seed):
    rng = np.random.default_rng(seed)  # few different rows: many ties
    bank = rng.integers(-1, 2, (13, 2)).astype(np.float32)
    queries = rng.integers(-1, 2, (5, 2)).astype(np.float32)
    found = neighbours.nearest_neighbours(queries, bank, k=k, block_size=block)
    for got, want in zip(found, stable_order(queries, bank, k), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("rows", "k"), [(13, 4), (16, 16), (9, 9), (3, 2)])
def test_eight_devices_find_the_same_in_the_same_order(devices, rows, k):
    rng = np.random.default_rng(rows)
    bank = rng.integers(-1, 2, (rows, 2)).astype(np.float32)
    queries = rng.integers(-1, 2, (5, 2)).astype(np.float32)
    with jax.set_mesh(make_mesh(devices)):
        found = neighbours.nearest_neighbours(queries, bank, k=k, block_size=1)
    for got, want in zip(found, stable_order(queries, bank, k), strict=True):
        np.testing.assert_array_equal(got, want)


def test_each_device_gets_its_own_rows_only(devices):
    mesh = make_mesh(devices)
    plan = neighbours.make_plan(5, 21, 6, 8, block_size=2)
    assert plan == (3, 2, 1, 1, 5)
    pieces, short = zip(*neighbours._pieces(BANK[:21], plan, mesh), strict=True)
    assert short == (True, True)
    assert [piece.rows.shape for piece in pieces] == [(16, 6), (8, 6)]
    for piece in pieces:
        firsts, counts = np.asarray(piece.firsts), np.asarray(piece.counts)
        for device, shard in enumerate(piece.rows.addressable_shards):
            first, count = firsts[device], counts[device]
            np.testing.assert_array_equal(
                np.asarray(shard.data)[:count], BANK[first : first + count]
            )
    assert sum(int(np.asarray(piece.counts).sum()) for piece in pieces) == 21


def test_queries_are_walked_in_parts_too():
    whole = neighbours.nearest_neighbours(QUERIES, BANK, k=3)
    assert neighbours.make_plan(9, 30, 6, 1, query_rows=4)[2:] == (1, 3, 3)
    parts = neighbours.nearest_neighbours(QUERIES, BANK, k=3, query_rows=4, threads=1)
    for part, all_at_once in zip(parts, whole, strict=True):
        assert part.shape == (9, 3)
        np.testing.assert_allclose(part, all_at_once, rtol=1e-6)


@pytest.mark.parametrize("wide", [False, True])
def test_threads_share_the_queries_in_the_callers_precision(wide):
    with jax.enable_x64(wide):
        dtype = np.float64 if wide else np.float32
        queries, bank = QUERIES.astype(dtype), BANK.astype(dtype)
        whole = neighbours.nearest_neighbours(queries, bank, k=3, block_size=7)
        how = {"block_size": 7, "query_rows": 2, "threads": 2}
        assert neighbours.make_plan(9, 30, 6, 1, **how) == (30, 7, 2, 3, 2)
        shared = neighbours.nearest_neighbours(queries, bank, k=3, **how)
    for part, all_at_once in zip(shared, whole, strict=True):
        assert part.shape == (9, 3)
        assert part.dtype == all_at_once.dtype
        rtol = 1e-14 if wide else 1e-6
        np.testing.assert_allclose(part, all_at_once, rtol=rtol)


def test_directions_alone_count_for_cosines():
    scaled = BANK * np.linspace(0.1, 9, 30, dtype=np.float32)[:, None]
    unit = BANK / np.linalg.norm(BANK, axis=1, keepdims=True)
    asked = QUERIES / np.linalg.norm(QUERIES, axis=1, keepdims=True)
    want = neighbours.nearest_neighbours(asked, unit, k=5)
    got = neighbours.nearest_neighbours(3 * QUERIES, scaled, k=5, cosine=True)
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_a_bank_of_another_precision_is_summed_in_float32(dtype, tmp_path):
    bank = BANK.astype(dtype)
    similarity, index = neighbours.nearest_neighbours(QUERIES, bank, k=30)
    want, order = stable_order(QUERIES, bank.astype(np.float32), 30)
    assert similarity.dtype == np.float32
    np.testing.assert_array_equal(index, order)
    np.testing.assert_allclose(similarity, want, rtol=1e-5, atol=1e-6)


def test_a_mapped_file_is_read_a_block_at_a_time(tmp_path):
    file = np.memmap(tmp_path / "bank", np.float16, "w+", shape=BANK.shape)
    file[:] = BANK
    mapped = np.memmap(tmp_path / "bank", np.float16, "r", shape=BANK.shape)
    got = neighbours.nearest_neighbours(QUERIES, mapped, k=4, block_size=7)
    want = neighbours.nearest_neighbours(QUERIES, np.asarray(mapped), k=4)
    np.testing.assert_array_equal(got[1], want[1])


def test_the_matrix_of_similarities_is_never_stored():
    mesh = neighbours._mesh()
    plan = neighbours.Plan(part=9000, block=500, shares=1, chunks=20, queries=100)
    piece, _ = next(neighbours._pieces(np.ones((9000, 2), np.float32), plan, mesh))
    compiled = neighbours._merge.lower(
        neighbours._nothing(mesh=mesh, plan=plan, k=1, dtype=np.dtype(np.float32)),
        jnp.ones((20, 100, 2)),
        piece,
        mesh=mesh,
        cosine=True,
        short=False,
    ).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2000 * 9000 * 4 / 10


def test_a_plan_of_imagenet_fits_a_small_device():
    plan = neighbours.make_plan(50_000, 1_281_167, 2048, 8)
    assert plan.part == 160_146
    planned = neighbours.memory_bytes(plan, 2048, k=200, bank_itemsize=2)
    assert planned < 1.5e9
    assert neighbours.make_plan(5, 3, 2048, 1) == (3, 3, 1, 1, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 31}, "k: expected 1 to 30, the rows of the bank, got 31"),
        ({"block_size": 0}, "block_size: expected at least 1, got 0"),
        ({"features": np.ones((9, 5))}, r"\(9, 5\) and \(30, 6\)"),
        (
            {"bank_features": np.full((30, 6), np.nan)},
            "features: expected finite numbers",
        ),
        ({"features": np.full((9, 6), np.inf)}, "features: expected finite numbers"),
    ],
)
def test_bad_input(change, message):
    good = {"features": QUERIES, "bank_features": BANK, "k": 3}
    with pytest.raises(ValueError, match=message):
        neighbours.nearest_neighbours(**(good | change))
