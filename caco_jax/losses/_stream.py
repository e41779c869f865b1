"""Processes a table of candidates in blocks, so that the scores are never stored.

Scores of a block are [block, N]: candidates down, queries across. Sums over the
candidates then add whole vectors, which CPUs do ten times faster than sums along rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from caco_jax.losses.contrast import HIGHEST, l2_normalize

Temperatures = tuple[Float[Array, ""], ...]  # the encoder's, the bank's if it differs
ROLES = ("both", "positives", "negatives")  # in which a row of the bank is moved

# Measured on CPUs: flat from 2 to 8 MiB of float32 on 4 cores, 1 to 4 on 2 cores.
# Elsewhere not measured: an accelerator wants few large steps; 64 MiB are little to it.
_SCORES_PER_BLOCK = {"cpu": 2**20}
_SCORES_PER_BLOCK_ELSEWHERE = 2**24
# What a score of unit rows may be off by where products are rounded.
_SLACK = {"high": 2.0**-14, "default": 2.0**-8}
_ALIGNMENT = 128  # rows: the lanes of a TPU, a multiple of any vector


class Walk(NamedTuple):
    """Settings of a pass over a table: rows of a block, precision of the products."""

    block_size: int | None = None  # None for a good one
    precision: str = HIGHEST

    def dot(self, a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
        """Contracts one axis of each array."""
        dimensions = (((contract[0],), (contract[1],)), ((), ()))
        return lax.dot_general(a, b, dimensions, precision=self.precision)


class Softmax(NamedTuple):
    """A softmax over the candidates seen so far; log-sum-exp as in flash attention."""

    top: Float[Array, " n"]  # largest score
    masses: tuple[Float[Array, " n"], ...]  # sum of exp((score - top) / temperature)
    pull: Float[Array, "d n"]  # the same sum at the first temperature, of candidates
    above: Int[Array, " n"]  # candidates that score above the positive


class Table(NamedTuple):
    """Candidates, and for each query the row of the table that is its positive."""

    rows: Float[Array, "c d"]
    labels: Int[Array, " n"] | None  # outside [0, C): the positive is elsewhere
    prepare: Callable[[jax.Array], jax.Array] = l2_normalize


def axes_of(*arrays: jax.Array) -> frozenset[str]:
    """Axes of the enclosing `shard_map` over which any of the arrays varies."""
    kinds = [jax.typeof(array).manual_axis_type for array in arrays]
    return frozenset().union(*(kind.varying for kind in kinds))


def varying(tree: Any, *arrays: jax.Array) -> Any:
    """Marks a tree as varying over the axes over which any of the arrays varies.

    A loop's first carry must have the type of its last.
    """

    def mark(leaf: jax.Array) -> jax.Array:
        missing = tuple(axes_of(*arrays) - axes_of(leaf))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(mark, tree)


def empty_softmax(queries: Float[Array, "n d"], count: int) -> Softmax:
    """The softmax of no candidates, at `count` temperatures."""
    n, d = queries.shape
    zeros = jnp.zeros((n,), queries.dtype)
    return Softmax(
        top=jnp.full((n,), -jnp.inf, queries.dtype),
        masses=(zeros,) * count,
        pull=jnp.zeros((d, n), queries.dtype),
        above=jnp.zeros((n,), jnp.int32),
    )


def own_softmax(
    own: Float[Array, "n d"],
    here: Bool[Array, " n"],
    positive: Float[Array, " n"],
    temperatures: Temperatures,
) -> Softmax:
    """The softmax of each query's positive alone; empty if it is not on this device.

    Args:
        own: [N, D] the positives, zeros where they are elsewhere.
        here: [N] whether the positive is among this device's candidates.
        positive: [N] its score.
        temperatures: one mass is summed for each.
    """
    top = lax.stop_gradient(positive)  # a shift, as in `extend`
    weights = [
        jnp.where(here, jnp.exp((positive - top) / temperature), 0)
        for temperature in temperatures
    ]
    return Softmax(
        top=jnp.where(here, top, -jnp.inf),
        masses=tuple(weights),
        pull=own.T * weights[0][None, :],
        above=jnp.zeros(here.shape, jnp.int32),
    )


def rescaled(
    state: Softmax, top: Float[Array, " n"], temperatures: Temperatures
) -> Softmax:
    """The same softmax, with its sums relative to a larger `top`."""
    before = state.top - top
    factors = [jnp.exp(before / temperature) for temperature in temperatures]
    masses = (mass * factor for mass, factor in zip(state.masses, factors, strict=True))
    return Softmax(top, tuple(masses), state.pull * factors[0][None, :], state.above)


def extend(
    state: Softmax,
    queries: Float[Array, "n d"],
    table: Table,
    positive: Float[Array, " n"],
    temperatures: Temperatures,
    how: Walk,
) -> Softmax:
    """Adds the candidates of a table to the softmax, in one pass over the table.

    Args:
        state: the softmax so far.
        queries: [N, D] rows in the dtype of the sums.
        table: the candidates.
        positive: [N] score of each query's positive.
        temperatures: one mass is summed for each.
        how: block size and precision.
    """
    # By more than rounding: the positive and its duplicates are not above it.
    lengths = jnp.sqrt(jnp.sum(queries * queries, axis=1))
    slack = _SLACK.get(how.precision, 16 * jnp.finfo(queries.dtype).eps)
    just_above = positive + slack * lengths

    def step(state: Softmax, block: jax.Array, start: jax.Array) -> tuple:
        candidates = table.prepare(block.astype(queries.dtype))
        scores = how.dot(candidates, queries, (1, 1))  # [block, N]
        # A shift: the softmax does not depend on it, and neither do gradients.
        top = jnp.maximum(state.top, lax.stop_gradient(jnp.max(scores, axis=0)))
        before = rescaled(state, top, temperatures)
        weights = [jnp.exp((scores - top[None, :]) / t) for t in temperatures]
        masses = tuple(
            mass + jnp.sum(weight, axis=0)
            for mass, weight in zip(before.masses, weights, strict=True)
        )
        pull = before.pull + how.dot(candidates, weights[0], (0, 0))
        above = jnp.sum(scores > just_above[None, :], axis=0, dtype=jnp.int32)
        return Softmax(top, masses, pull, state.above + above), None

    state = varying(state, queries, table.rows, positive, *temperatures)
    return walk(step, state, table.rows, queries.shape[0], how.block_size)[0]


def nearest(
    keys: Float[Array, "n d"], bank: Float[Array, "k d"], how: Walk
) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    """Each key's largest cosine with a bank row, and the first row that has it."""

    def step(carry: tuple, block: jax.Array, start: jax.Array) -> tuple:
        best, where = carry
        scores = how.dot(l2_normalize(block.astype(keys.dtype)), keys, (1, 1))
        top = jnp.max(scores, axis=0)
        index = lax.broadcasted_iota(jnp.int32, scores.shape, 0)
        # Quicker than argmax: two sweeps that vectorise for one that does not.
        first = jnp.min(jnp.where(scores == top[None, :], index, len(block)), axis=0)
        better = top > best  # strictly: an earlier block keeps a tie
        return (
            jnp.where(better, top, best),
            jnp.where(better, first + start, where),
        ), None

    n = keys.shape[0]
    none_yet = (jnp.full((n,), -jnp.inf, keys.dtype), jnp.zeros((n,), jnp.int32))
    return walk(step, varying(none_yet, keys, bank), bank, n, how.block_size)[0]


def ascent(
    queries: Float[Array, "n d"],
    movers: Float[Array, "n d"],
    bank: Table,
    shift: Float[Array, " n"],
    temperature: Float[Array, ""],
    scale: Float[Array, ""],
    how: Walk,
    roles: str,
) -> Float[Array, "k d"]:
    """The bank's update: row j moves by sum_n c_nj m_n, times `scale`.

    c_nj is the probability exp((score - shift_n) / temperature) of row j for query n,
    or one minus it where row j is the positive of query n; 0 in a role that does not
    move it. The movers m are the queries, or stand in for them. The pull acts on unit
    rows; the normalisation's own gradient carries it to the raw rows, as projection
    and 1/length. `roles`: one of `ROLES`.
    """
    force = movers * scale
    rows = varying(bank.rows, queries, movers, bank.rows, shift, scale)

    def step(carry: None, block: jax.Array, start: jax.Array) -> tuple:
        units, to_raw = jax.vjp(bank.prepare, block.astype(queries.dtype))
        scores = how.dot(units, queries, (1, 1))  # [block, N]
        weights = jnp.exp((scores - shift[None, :]) / temperature)
        if bank.labels is not None:
            positive = hits(bank.labels, start, len(block))
            weights = jnp.where(positive, 1 - weights, weights)
            if roles != "both":
                weights = jnp.where(positive == (roles == "positives"), weights, 0)
        (move,) = to_raw(how.dot(weights, force, (1, 0)))
        return carry, move.astype(block.dtype)

    return walk(step, None, rows, queries.shape[0], how.block_size)[1]


def hits(
    labels: Int[Array, " n"], start: Int[Array, ""], size: int
) -> Bool[Array, "b n"]:
    """Whether row `start + b` of the table is the positive of query n."""
    shape = (size, labels.shape[0])
    return labels[None, :] - start == lax.broadcasted_iota(jnp.int32, shape, 0)


def walk(
    step: Callable[[Any, jax.Array, jax.Array], tuple[Any, Any]],
    carry: Any,
    rows: Float[Array, "c d"],
    num_queries: int,
    block_size: int | None,
) -> tuple[Any, Any]:
    """Folds `step(carry, block, start) -> carry, moved block or None` over the rows.

    A last block that is shorter is a step by itself, so any number of rows will do.

    Returns:
        The last carry and the moved blocks, joined.
    """
    count = rows.shape[0]
    size = block_rows(count, num_queries, block_size)

    def full(carry: Any, index: jax.Array) -> tuple[Any, Any]:
        start = index * size
        return step(carry, lax.dynamic_slice_in_dim(rows, start, size), start)

    steps = count // size
    carry, moved = lax.scan(full, carry, jnp.arange(steps, dtype=jnp.int32))
    moved = jax.tree.map(lambda blocks: blocks.reshape(steps * size, -1), moved)
    if count % size:
        start = jnp.asarray(steps * size, jnp.int32)
        carry, last = step(carry, rows[steps * size :], start)
        moved = jax.tree.map(lambda *parts: jnp.concatenate(parts), moved, last)
    return carry, moved


def block_rows(count: int, num_queries: int, block_size: int | None) -> int:
    """Rows of a block: the given number, or equal parts near the fastest size."""
    if block_size is not None:
        return min(block_size, count)
    scores = _SCORES_PER_BLOCK.get(_platform(), _SCORES_PER_BLOCK_ELSEWHERE)
    steps = -(-count // max(scores // num_queries, _ALIGNMENT))
    share = -(-count // steps)
    return min(-(-share // _ALIGNMENT) * _ALIGNMENT, count)


def _platform() -> str:
    """The platform that is compiled for, which the devices of the mesh state."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
