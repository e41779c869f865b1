"""Nearest-neighbour search by dot product, with the bank streamed to the devices.

The bank stays on the host, in any precision; it may be a memory-mapped file. Its blocks
are copied to the devices one after another, each device gets its share of the rows, and
a running top k is kept. The matrix of all similarities is never stored.
"""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from caco_jax._process import usable_cores
from caco_jax.evaluation import checks
from caco_jax.losses.contrast import l2_normalize

# Numbers in a block of the bank, 64 MB as float32. Larger blocks are merged less often.
BLOCK_NUMBERS = 2**24
QUERY_ROWS = 1024
SCORE_NUMBERS = 2**24  # largest number of similarities at once

Found = tuple[Float[Array, "b k"], Int[Array, "b k"]]  # similarities and indices


class Plan(NamedTuple):
    """The blocks of a search.

    Attributes:
        part: total rows of the bank on each device; the last may have fewer.
        block: rows of a device's part that are searched at once.
        shares: number of shares of the queries, one thread each.
        chunks: number of parts of the queries of a share.
        queries: number of queries at once.
    """

    part: int
    block: int
    shares: int
    chunks: int
    queries: int


class _Best(NamedTuple):
    """The nearest rows found so far, by device, chunk of queries, and query."""

    similarity: Float[Array, "d c q k"]
    indices: Int[Array, "d c q k"]
    finite: Bool[Array, " d"]


class _Piece(NamedTuple):
    """The next rows of each device's part of the bank, side by side."""

    rows: Float[Array, "m f"]
    firsts: Int[Array, " d"]  # index in the bank of each device's first
    counts: Int[Array, " d"]  # rows of each device; the rest is padded with zeros


def nearest_neighbours(
    features: Float[Array | np.ndarray, "b f"],
    bank_features: Float[Array | np.ndarray, "m f"],
    *,
    k: int,
    cosine: bool = False,
    block_size: int | None = None,
    query_rows: int = QUERY_ROWS,
    threads: int | None = None,
) -> Found:
    """The k rows of the bank with the largest dot product, best first.

    Equal similarities come in the order of the bank. Sums are at least float32. With a
    mesh set (`jax.set_mesh`) the bank's rows are spread over all its devices.

    Args:
        features: [B, F] queries, which are kept on the devices.
        bank_features: [M, F] rows to search; preferably on the host, from which blocks
            are read.
        k: number of neighbours, of 1 to M.
        cosine: whether to normalise, for cosine similarity.
        block_size: rows of the bank that a device scores at once; None: as many as
            have 2^24 numbers.
        query_rows: largest number of queries at once.
        threads: number of threads that share the queries; None: chosen for the device.

    Returns:
        Similarities [B, k] and indices into the bank [B, k] (int32).

    Raises:
        ValueError: the shapes do not fit, k or `block_size` is out of range, or a
            number is not finite.
    """
    _check(features, bank_features, k, block_size)
    queries = checks.finite_floats(features)
    if cosine:
        queries = l2_normalize(queries)
    bank = np.asarray(bank_features)
    mesh = _mesh()
    plan = make_plan(
        len(queries),
        len(bank),
        bank.shape[1],
        mesh.size,
        block_size=block_size,
        query_rows=query_rows,
        threads=threads or _threads(mesh),
    )
    room = plan.shares * plan.chunks * plan.queries
    padded = jnp.pad(queries, [(0, room - len(queries)), (0, 0)]).reshape(
        plan.shares, plan.chunks, plan.queries, -1
    )
    shares = list(jax.device_put(padded, NamedSharding(mesh, P())))
    dtype = jnp.promote_types(queries.dtype, _device_dtype(bank))
    bests = [_nothing(mesh=mesh, plan=plan, k=k, dtype=dtype) for _ in shares]
    with ThreadPoolExecutor(plan.shares) as pool:
        for piece, short in _pieces(bank, plan, mesh):
            # The next piece is copied while this one is searched.
            jax.block_until_ready(bests)
            merge = functools.partial(
                _merge, piece=piece, mesh=mesh, cosine=cosine, short=short
            )
            bests = _in_threads(pool, merge, bests, shares)
    joined = [_join(best, mesh=mesh) for best in bests]
    similarity, index = (
        jnp.concatenate(parts)[: len(queries)]
        for parts in zip(*(found[:2] for found in joined), strict=True)
    )
    checks.require_finite(jnp.stack([finite for *_, finite in joined]).all())
    return similarity, index


def _threads(mesh: Mesh) -> int:
    """Threads for a device: on a CPU XLA's top_k of a row runs on one core."""
    alone = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    return usable_cores() if alone else 1


def _in_threads(
    pool: ThreadPoolExecutor,
    merge: Callable[[_Best, jax.Array], _Best],
    bests: list[_Best],
    shares: list[jax.Array],
) -> list[_Best]:
    """Calls `merge` on each share of the queries in threads."""
    if len(shares) == 1:
        return [merge(bests[0], shares[0])]
    # Settings that hold in the caller's thread only.
    wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]

    def merged(best: _Best, share: jax.Array) -> _Best:
        with jax.enable_x64(wide):
            return jax.block_until_ready(merge(best, share))

    return list(pool.map(merged, bests, shares))


def make_plan(
    queries: int,
    rows: int,
    width: int,
    devices: int,
    *,
    block_size: int | None = None,
    query_rows: int = QUERY_ROWS,
    threads: int = 1,
) -> Plan:
    """The blocks for a search of so many rows."""
    part = -(-rows // devices)
    block = min(block_size or max(BLOCK_NUMBERS // width, 1), part)
    at_once = min(query_rows, max(SCORE_NUMBERS // (block * threads), 1))
    chunks = max(-(-queries // at_once), 1)
    shares = min(threads, chunks)
    chunks = -(-chunks // shares)
    return Plan(part, block, shares, chunks, max(-(-queries // (shares * chunks)), 1))


def memory_bytes(plan: Plan, width: int, *, k: int, bank_itemsize: int = 4) -> int:
    """Memory of a search on each device, in float32 except for the bank.

    It counts the queries, the neighbours found so far (twice, while they are merged),
    two blocks of the bank as stored and one as float32 with its normalised copy, and
    the similarities of one chunk of each share.
    """
    queries = plan.shares * plan.chunks * plan.queries
    block = plan.block * width
    return (
        4 * queries * width
        + 2 * 8 * queries * k
        + 2 * bank_itemsize * block
        + 2 * 4 * block
        + 4 * plan.shares * plan.queries * plan.block
    )


def _check(features: Any, bank_features: Any, k: int, block_size: int | None) -> None:
    if (
        np.ndim(features) != 2
        or np.ndim(bank_features) != 2
        or features.shape[1] != bank_features.shape[1]
    ):
        raise ValueError(
            "expected features [B, F] and bank_features [M, F], got "
            f"{np.shape(features)} and {np.shape(bank_features)}"
        )
    if not 1 <= k <= len(bank_features):
        raise ValueError(
            f"k: expected 1 to {len(bank_features)}, the rows of the bank, got {k}"
        )
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size: expected at least 1, got {block_size}")


def _mesh() -> Mesh:
    """The mesh that is set, or a mesh of the first device."""
    mesh = jax.sharding.get_mesh()
    if not mesh.empty:
        return mesh
    return jax.make_mesh(
        (1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1]
    )


def _device_dtype(bank: np.ndarray) -> jnp.dtype:
    """The dtype of the bank on the devices: float64 only if that is enabled."""
    return jnp.asarray(bank[:0]).dtype


def _spread(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(mesh.axis_names))


@functools.partial(jax.jit, static_argnames=("mesh", "plan", "k", "dtype"))
def _nothing(*, mesh: Mesh, plan: Plan, k: int, dtype: jnp.dtype) -> _Best:
    """The initial state without neighbours."""
    shape = (mesh.size, plan.chunks, plan.queries, k)
    best = _Best(
        jnp.full(shape, -jnp.inf, dtype),
        jnp.zeros(shape, jnp.int32),
        jnp.ones(mesh.size, bool),
    )
    return jax.lax.with_sharding_constraint(best, _spread(mesh))


def _pieces(bank: np.ndarray, plan: Plan, mesh: Mesh) -> Iterator[tuple[_Piece, bool]]:
    """Blocks of the bank for each device, and whether one is incomplete."""
    starts = np.arange(mesh.size, dtype=np.int32) * plan.part
    sharding = _spread(mesh)
    for done in range(0, plan.part, plan.block):
        rows = min(plan.block, plan.part - done)
        firsts = starts + np.int32(done)
        counts = np.clip(len(bank) - firsts, 0, rows).astype(np.int32)
        parts = [
            bank[first : first + count]
            for first, count in zip(firsts, counts, strict=True)
        ]
        piece = _Piece(
            _side_by_side(parts, rows, sharding),
            jax.device_put(firsts, sharding),
            jax.device_put(counts, sharding),
        )
        yield piece, bool((counts < rows).any())


def _side_by_side(
    parts: list[np.ndarray], rows: int, sharding: NamedSharding
) -> Float[Array, "m f"]:
    """Puts one part on each device, padded with zeros to so many rows."""
    dtype = _device_dtype(parts[0])

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        device = (index[0].start or 0) // rows if index else 0
        found = parts[device].astype(dtype, copy=False)
        missing = rows - len(found)
        return np.pad(found, [(0, missing), (0, 0)]) if missing else found

    shape = (len(parts) * rows, parts[0].shape[1])
    return jax.make_array_from_callback(shape, sharding, part)


@functools.partial(
    jax.jit, static_argnames=("mesh", "cosine", "short"), donate_argnames="best"
)
def _merge(
    best: _Best,
    queries: Float[Array, "c q f"],
    piece: _Piece,
    *,
    mesh: Mesh,
    cosine: bool,
    short: bool,
) -> _Best:
    """Updates the nearest rows with those of another piece of the bank."""
    axes = P(mesh.axis_names)
    local = functools.partial(_search, cosine=cosine, short=short)
    return jax.shard_map(local, mesh=mesh, in_specs=(axes, P(), axes), out_specs=axes)(
        best, queries, piece
    )


def _search(
    best: _Best, queries: jax.Array, piece: _Piece, *, cosine: bool, short: bool
) -> _Best:
    """The search on one device, in its own rows."""
    dtype, k = best.similarity.dtype, best.similarity.shape[-1]
    rows = piece.rows.astype(dtype)  # some processors have no narrower products
    finite = best.finite & jnp.isfinite(rows).all()
    if cosine:
        rows = l2_normalize(rows)

    def of_chunk(chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        few, similarity, index = chunk
        scores = jnp.einsum("qf,mf->qm", few, rows, precision="highest")
        if short:
            there = jnp.arange(len(rows)) < piece.counts
            scores = jnp.where(there[None], scores, -jnp.inf)
        top, place = jax.lax.top_k(scores, min(k, len(rows)))
        # The best so far come first, because they are the earlier rows: top_k prefers
        # them in a tie.
        pool = jnp.concatenate([similarity, top], axis=1)
        names = jnp.concatenate([index, piece.firsts[:, None] + place], axis=1)
        top, place = jax.lax.top_k(pool, k)
        return top, jnp.take_along_axis(names, place, axis=1)

    similarity, index = jax.lax.map(
        of_chunk, (queries, best.similarity[0], best.indices[0])
    )
    return _Best(similarity[None], index[None], finite)


@functools.partial(jax.jit, static_argnames="mesh")
def _join(best: _Best, *, mesh: Mesh) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The nearest rows of all devices, and whether all were finite."""
    k = best.similarity.shape[-1]
    # The devices' order is the bank's.
    similarity, indices = (
        jnp.moveaxis(part, 0, 2).reshape(-1, mesh.size * k)
        for part in (best.similarity, best.indices)
    )
    if mesh.size > 1:
        similarity, place = jax.lax.top_k(similarity, k)
        indices = jnp.take_along_axis(indices, place, axis=1)
    return jax.lax.with_sharding_constraint(
        (similarity, indices, best.finite.all()), NamedSharding(mesh, P())
    )
