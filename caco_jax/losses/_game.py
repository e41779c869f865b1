"""The computation behind both bank losses, on one device or sharded over a mesh.

Candidates are the keys of the batch, or each query's own alone (AdCo), and the bank;
positives are those keys, or rows of the bank (CaCo).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from caco_jax.losses import _stream
from caco_jax.losses._stream import Softmax, Table, Temperatures, Walk
from caco_jax.losses.contrast import accumulator

Axes = tuple[str, ...]  # mesh axes that rows are spread over; () for one device


class BankAux(NamedTuple):
    """Statistics of a bank loss. No gradient flows through them.

    Attributes:
        positive_probability: [N] probability of the positive at the bank temperature.
        encoder_positive_probability: [N] the same at the encoder's temperature.
        positive_rank: [N] candidates that score above the positive, by more than
            rounding; top-k agreement is the share of ranks below k.
        batch_probability: [N] probability, at the bank temperature, that lies on the
            keys that are candidates; zero where none is (CaCo).
    """

    positive_probability: Float[Array, " n"]
    encoder_positive_probability: Float[Array, " n"]
    positive_rank: Int[Array, " n"]
    batch_probability: Float[Array, " n"]


class Plan(NamedTuple):
    """The static (trace-time) settings of a bank loss."""

    mesh: AbstractMesh | None
    how: Walk = Walk()
    batch_keys: bool = True  # whether others' keys are candidates, where keys are
    roles: str = "both"  # in which the bank is moved, one of `_stream.ROLES`


class _Forward(NamedTuple):
    """The results of the first pass over the bank."""

    losses: Float[Array, " n"]
    aux: BankAux
    descent: Float[Array, "n d"]  # gradient of the mean loss wrt the queries
    shift: Float[Array, " n"]  # bank temperature times its log-sum-exp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def play(
    plan: Plan,
    queries: jax.Array,
    bank: jax.Array,
    keys: jax.Array | None,
    positives: jax.Array | None,
    temperatures: Temperatures,
    movers: jax.Array | None,
) -> tuple[jax.Array, BankAux]:
    """Mean loss at the first temperature; its custom gradients are the players' moves.

    The bank moves toward `movers`, or where there are none toward the queries.
    """
    del movers
    found = _forward(plan, queries, bank, keys, positives, temperatures)
    return jnp.mean(found.losses), found.aux


def _game_forward(plan: Plan, *game: Any) -> tuple:
    # Compilers drop what is not used: the queries' gradient where only the bank moves.
    found = _forward(plan, *game[:-1])
    return (jnp.mean(found.losses), found.aux), (game, found.descent, found.shift)


def _game_backward(plan: Plan, residuals: tuple, cotangents: tuple) -> tuple:
    (queries, bank, _, positives, temperatures, movers), descent, shift = residuals
    upstream, _ = cotangents
    temperature = temperatures[-1]
    scale = upstream / (queries.shape[0] * temperature)
    axes = _axes(plan.mesh)
    local = functools.partial(_ascent, axes=axes, plan=plan)
    in_specs = (P(), P(), P(axes), P(), P(), P(), P())
    move = _spread(local, plan.mesh, in_specs, P(axes))
    ascent = move(queries, movers, bank, positives, shift, temperature, scale)
    descent = (upstream * descent).astype(queries.dtype)
    return (
        _psum_over_unshared_axes(descent, queries),
        _psum_over_unshared_axes(ascent, bank),
        None,
        None,
        None,
        None,
    )


play.defvjp(_game_forward, _game_backward)


def _forward(plan: Plan, *game: Any) -> _Forward:
    axes = _axes(plan.mesh)
    local = functools.partial(_first_walk, axes=axes, plan=plan)
    in_specs = (P(), P(axes), P(axes), P(), P())
    out_specs = _Forward._make((P(), P(), P(axes), P()))
    return _spread(local, plan.mesh, in_specs, out_specs)(*game)


def _first_walk(
    queries: Float[Array, "n d"],
    bank: Float[Array, "k d"],
    keys: Float[Array, "n d"] | None,
    positives: Int[Array, " n"] | None,
    temperatures: Temperatures,
    *,
    axes: Axes,
    plan: Plan,
) -> _Forward:
    """Scores all queries against the keys and bank rows of this device."""
    queries = queries.astype(temperatures[0].dtype)
    tables = _tables(queries, bank, keys, positives, axes)
    own, here = _positive_rows(tables[0], queries.dtype)
    positive = _sum(jnp.sum(queries * own, axis=1), axes)

    local = [_stream.empty_softmax(queries, len(temperatures))]
    if len(tables) > 1 and not plan.batch_keys:
        local = [_stream.own_softmax(own, here, positive, temperatures)]
        tables = tables[1:]
    for table in tables:
        local.append(
            _stream.extend(local[-1], queries, table, positive, temperatures, plan.how)
        )
    whole = _merge(local[-1], temperatures, axes)
    keys_mass = _stream.rescaled(local[-2], whole.top, temperatures).masses[-1]

    behind = positive - whole.top
    probabilities = [
        jnp.exp(behind / temperature) / mass
        for temperature, mass in zip(temperatures, whole.masses, strict=True)
    ]
    expected = whole.pull.T / whole.masses[0][:, None]  # this device's share of it
    descent = (expected - own) / (queries.shape[0] * temperatures[0])
    return _Forward(
        losses=jnp.log(whole.masses[0]) - behind / temperatures[0],
        aux=BankAux(
            positive_probability=probabilities[-1],
            encoder_positive_probability=probabilities[0],
            positive_rank=whole.above,
            batch_probability=_sum(keys_mass, axes) / whole.masses[-1],
        ),
        descent=lax.psum_scatter(descent, axes, tiled=True) if axes else descent,
        shift=whole.top + temperatures[-1] * jnp.log(whole.masses[-1]),
    )


def _tables(
    queries: jax.Array,
    bank: jax.Array,
    keys: jax.Array | None,
    positives: jax.Array | None,
    axes: Axes,
) -> list[Table]:
    """The candidates of this device, those that hold the positives first."""
    if keys is None:
        assert positives is not None
        return [Table(bank, _local(positives, bank, axes))]
    own = _local(jnp.arange(queries.shape[0], dtype=jnp.int32), keys, axes)
    as_given = Table(keys.astype(queries.dtype), own, prepare=lambda rows: rows)
    return [as_given, Table(bank, None)]


def _positive_rows(
    table: Table, dtype: jnp.dtype
) -> tuple[Float[Array, "n d"], Bool[Array, " n"]]:
    """The rows of the positives, and which of them are on this device.

    Those outside are zeros.
    """
    assert table.labels is not None
    here = (table.labels >= 0) & (table.labels < table.rows.shape[0])
    rows = jnp.take(table.rows, table.labels, axis=0, mode="clip").astype(dtype)
    return jnp.where(here[:, None], table.prepare(rows), 0), here


def _merge(state: Softmax, temperatures: Temperatures, axes: Axes) -> Softmax:
    """Merges the softmax over all devices; `pull` stays the share of this device."""
    if not axes:
        return state
    state = _stream.rescaled(state, lax.pmax(state.top, axes), temperatures)
    masses, above = lax.psum((state.masses, state.above), axes)
    return state._replace(masses=masses, above=above)


def _ascent(
    queries: Float[Array, "n d"],
    movers: Float[Array, "n d"] | None,
    bank: Float[Array, "k d"],
    positives: Int[Array, " n"] | None,
    shift: Float[Array, " n"],
    temperature: Float[Array, ""],
    scale: Float[Array, ""],
    *,
    axes: Axes,
    plan: Plan,
) -> Float[Array, "k d"]:
    """The move of this device's rows of the bank."""
    table = Table(bank, None if positives is None else _local(positives, bank, axes))
    queries = queries.astype(shift.dtype)
    movers = queries if movers is None else movers.astype(shift.dtype)
    return _stream.ascent(
        queries,
        movers,
        table,
        shift,
        temperature,
        scale,
        plan.how,
        plan.roles,
    )


def nearest(plan: Plan, keys: jax.Array, bank: jax.Array) -> Int[Array, " n"]:
    """The bank row with the largest cosine similarity to each key."""
    axes = _axes(plan.mesh)
    local = functools.partial(_nearest, axes=axes, how=plan.how)
    return _spread(local, plan.mesh, (P(), P(axes)), P())(keys, bank)


def _nearest(
    keys: jax.Array, bank: jax.Array, *, axes: Axes, how: Walk
) -> Int[Array, " n"]:
    """The nearest rows over all devices; ties are resolved to the first device."""
    keys = keys.astype(accumulator(keys, bank))
    best, index = _stream.nearest(keys, bank, how)
    if not axes:
        return index
    index += lax.axis_index(axes) * bank.shape[0]
    beaten = best < lax.pmax(best, axes)
    return lax.pmin(jnp.where(beaten, jnp.iinfo(jnp.int32).max, index), axes)


# The devices.


def find_mesh() -> AbstractMesh | None:
    """The mesh to shard over; None inside a `shard_map` over it."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 or mesh.manual_axes else mesh


def _axes(mesh: AbstractMesh | None) -> Axes:
    return () if mesh is None else mesh.axis_names


def _spread(
    local: Callable, mesh: AbstractMesh | None, in_specs: Any, out_specs: Any
) -> Callable:
    """Maps the function over the devices of the mesh; without a mesh, the function."""
    if mesh is None:
        return local
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs)


def _psum_over_unshared_axes(gradient: jax.Array, array: jax.Array) -> jax.Array:
    """Sums over the axes of a caller's `shard_map` that replicate the array."""
    shared = tuple(_stream.axes_of(gradient) - _stream.axes_of(array))
    return lax.psum(gradient, shared) if shared else gradient


def _sum(x: jax.Array, axes: Axes) -> jax.Array:
    return lax.psum(x, axes) if axes else x


def _local(labels: jax.Array, table: jax.Array, axes: Axes) -> Int[Array, " n"]:
    """Row numbers of the whole table as row numbers of this device's part of it."""
    return labels - lax.axis_index(axes) * table.shape[0] if axes else labels
