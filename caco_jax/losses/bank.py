"""The bank games: AdCo's adversary and CaCo's cooperative adversary, streamed.

A learnable bank of K rows plays against (AdCo) or with and against (CaCo) an encoder.
The N x K scores are never stored: one walk over the bank in blocks gives the loss and
the queries' gradient, a second one the bank's move. Memory grows with N * block.

When a mesh is set (`jax.set_mesh`), rows of queries, keys, positives and bank are
spread over all its axes. Queries are gathered, each device scores its own rows of the
bank, log-sum-exp and arg-max are merged over the devices, and the bank's gradient never
leaves its device: traffic grows with N * D, not with K. Inside a `jax.shard_map` of the
caller's the functions see local arrays, and only those.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from caco_jax.losses import _stream, checks
from caco_jax.losses._stream import Softmax, Table, Temperatures
from caco_jax.losses.contrast import accumulator


class BankAux(NamedTuple):
    """What a bank game tells beside its payoff. No gradient flows through it.

    Attributes:
        positive_probability: [N] probability of the positive at the bank temperature.
        encoder_positive_probability: [N] the same at the encoder's temperature.
        positive_rank: [N] candidates that score above the positive, by more than
            rounding; top-k agreement is the share of ranks below k.
        batch_probability: [N] probability, at the bank temperature, that lies on the
            keys of the batch; zero where keys are no candidates (CaCo).
    """

    positive_probability: Float[Array, " n"]
    encoder_positive_probability: Float[Array, " n"]
    positive_rank: Int[Array, " n"]
    batch_probability: Float[Array, " n"]


def nearest_entries(
    keys: Float[Array, "n d"],
    bank: Float[Array, "k d"],
    *,
    block_size: int | None = None,
) -> Int[Array, " n"]:
    """CaCo's positives: for each key the bank row with the largest cosine.

    No gradient flows through it.

    Args:
        keys: [N, D] floats; only their directions matter.
        bank: [K, D] floats, raw rows of any length.
        block_size: bank rows scored at a time; None for a good one.

    Returns:
        [N] int32 indices in [0, K); of rows that tie, the first.

    Raises:
        ValueError: an empty array, widths that differ, a block size below 1, or K or N
            that the devices of the mesh do not divide.
        TypeError: an array does not hold floats, or block_size is not an integer.

    References:
        Wang et al. 2022, arXiv:2203.14370.
    """
    mesh = _check(keys, bank, block_size, names=("keys", "bank"))
    keys, bank = lax.stop_gradient((keys, bank))
    local = functools.partial(_nearest, axes=_axes(mesh), block_size=block_size)
    return _spread(local, mesh, (P(), P(_axes(mesh))), P())(keys, bank)


def caco_loss(
    queries: Float[Array, "n d"],
    positives: Int[Array, " n"],
    bank: Float[Array, "k d"],
    *,
    temperature: float,
    bank_temperature: float | None = None,
    block_size: int | None = None,
) -> tuple[Float[Array, ""], BankAux]:
    """CaCo: each query is told from all bank rows but its own positive row.

    The scalar is the mean cross entropy over scores s_nj = q_n . w_j / temperature with
    w_j = W_j / |W_j| and label positives[n]. Gradients are those of a game:

    * wrt `queries`, the encoder's: of that scalar, with the bank constant;
    * wrt `bank`, the bank player's **ascent** direction, which is not the scalar's
      derivative: with p the softmax at bank_temperature and c_nj = 1 - p_nj where j is
      the positive of n, else p_nj,
      ``step_j = sum_n c_nj (q_n - (q_n . w_j) w_j) / (N bank_temperature |W_j|)``.
      It descends the loss through the positives and ascends it through the negatives:
      every row moves toward queries.

    An upstream cotangent scales both. Two directions may share a walk: the loss of
    their rows together is the mean of the two losses.

    Args:
        queries: [N, D] floats, unit rows, used as given.
        positives: [N] integers in [0, K), as from `nearest_entries`.
        bank: [K, D] floats, raw rows, normalised here; a row of zeros scores 0 and
            does not move.
        temperature: the encoder's, above 0. No gradient reaches temperatures.
        bank_temperature: the bank's, above 0; None for the encoder's.
        block_size: bank rows scored at a time; None for a good one.

    Returns:
        The scalar in nats, at least float32, and a `BankAux`.

    Raises:
        ValueError: an empty array, shapes that do not fit, a temperature that is not
            above 0, a block size below 1, or K or N that the devices of the mesh do not
            divide.
        TypeError: embeddings that are not floats, positives that are not integers, or
            a block_size that is no integer.

    References:
        Wang et al. 2022, arXiv:2203.14370.
    """
    mesh = _check(queries, bank, block_size)
    if not jnp.issubdtype(positives.dtype, jnp.integer):
        raise TypeError(f"positives: want integer indices, got {positives.dtype}")
    if positives.shape != queries.shape[:1]:
        raise ValueError(
            f"want one positive a query: got positives {tuple(positives.shape)} for "
            f"queries {tuple(queries.shape)}"
        )
    temperatures = _temperatures(temperature, bank_temperature, queries, bank)
    positives = positives.astype(jnp.int32)
    plan = _Plan(mesh, block_size)
    return _detach(_game(plan, queries, bank, None, positives, temperatures))


def adco_loss(
    queries: Float[Array, "n d"],
    keys: Float[Array, "n d"],
    bank: Float[Array, "k d"],
    *,
    temperature: float,
    bank_temperature: float | None = None,
    block_size: int | None = None,
) -> tuple[Float[Array, ""], BankAux]:
    """AdCo: each query is told from the batch's other keys and all bank rows.

    The scalar is the mean cross entropy over scores [q_n . k_1 .. q_n . k_N ;
    q_n . w_1 .. q_n . w_K] / temperature with w_j = W_j / |W_j| and label n. Gradients
    are those of a game:

    * wrt `queries`, the encoder's: of that scalar, with keys and bank constant;
    * wrt `bank`, the bank player's **ascent** direction: the derivative of the same
      loss at bank_temperature,
      ``step_j = sum_n p_nj (q_n - (q_n . w_j) w_j) / (N bank_temperature |W_j|)``;
    * wrt `keys`, zero: they come from the target encoder.

    An upstream cotangent scales both. With one temperature the gradients are the true
    ones, of every order.

    Args:
        queries: [N, D] floats, unit rows, used as given.
        keys: [N, D] floats, unit rows, used as given; row n is the positive of query n.
        bank: [K, D] floats, raw rows, normalised here; a row of zeros scores 0 and
            does not move.
        temperature: the encoder's, above 0. No gradient reaches temperatures.
        bank_temperature: the bank's, above 0; None for the encoder's.
        block_size: candidates scored at a time; None for a good one.

    Returns:
        The scalar in nats, at least float32, and a `BankAux`.

    Raises:
        ValueError: an empty array, shapes that do not fit, a temperature that is not
            above 0, a block size below 1, or K or N that the devices of the mesh do not
            divide.
        TypeError: embeddings that are not floats, or a block_size that is no integer.

    References:
        Hu et al. 2021, arXiv:2011.08435.
    """
    checks.check_embeddings(keys=keys)
    checks.check_same_shape(queries=queries, keys=keys)
    mesh = _check(queries, bank, block_size)
    temperatures = _temperatures(temperature, bank_temperature, queries, bank, keys)
    keys = lax.stop_gradient(keys)
    plan = _Plan(mesh, block_size)
    return _detach(_game(plan, queries, bank, keys, None, temperatures))


# The game that both losses are: candidates are keys (if any) and bank, positives are
# the keys, or rows of the bank.


Axes = tuple[str, ...]  # mesh axes that rows are spread over; () for one device


class _Plan(NamedTuple):
    """What is known of a game at trace time."""

    mesh: AbstractMesh | None
    block_size: int | None


class _Forward(NamedTuple):
    """What the first walk finds."""

    losses: Float[Array, " n"]
    aux: BankAux
    descent: Float[Array, "n d"]  # gradient of the mean loss wrt the queries
    shift: Float[Array, " n"]  # bank temperature times its log-sum-exp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _game(
    plan: _Plan,
    queries: jax.Array,
    bank: jax.Array,
    keys: jax.Array | None,
    positives: jax.Array | None,
    temperatures: Temperatures,
) -> tuple[jax.Array, BankAux]:
    """Mean loss at the first temperature; its "gradients" are the players' moves."""
    found = _forward(plan, queries, bank, keys, positives, temperatures)
    return jnp.mean(found.losses), found.aux


def _game_forward(plan: _Plan, *game: Any) -> tuple:
    # Compilers drop what is not used: the queries' gradient where only the bank moves.
    found = _forward(plan, *game)
    return (jnp.mean(found.losses), found.aux), (game, found.descent, found.shift)


def _game_backward(plan: _Plan, residuals: tuple, cotangents: tuple) -> tuple:
    (queries, bank, _, positives, temperatures), descent, shift = residuals
    upstream, _ = cotangents
    temperature = temperatures[-1]
    scale = upstream / (queries.shape[0] * temperature)
    axes = _axes(plan.mesh)
    local = functools.partial(_ascent, axes=axes, block_size=plan.block_size)
    in_specs = (P(), P(axes), P(), P(), P(), P())
    move = _spread(local, plan.mesh, in_specs, P(axes))
    ascent = move(queries, bank, positives, shift, temperature, scale)
    descent = (upstream * descent).astype(queries.dtype)
    return _sent_home(descent, queries), _sent_home(ascent, bank), None, None, None


_game.defvjp(_game_forward, _game_backward)


def _forward(plan: _Plan, *game: Any) -> _Forward:
    axes = _axes(plan.mesh)
    local = functools.partial(_first_walk, axes=axes, block_size=plan.block_size)
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
    block_size: int | None,
) -> _Forward:
    """Scores all candidates. Queries are whole, keys and bank are this device's."""
    queries = queries.astype(temperatures[0].dtype)
    tables = _tables(queries, bank, keys, positives, axes)
    own = _positive_rows(tables[0], queries.dtype)  # zeros where it is elsewhere
    positive = _sum(jnp.sum(queries * own, axis=1), axes)

    local = [_stream.empty_softmax(queries, len(temperatures))]
    for table in tables:
        local.append(
            _stream.extend(
                local[-1], queries, table, positive, temperatures, block_size
            )
        )
    whole = _merge(local[-1], temperatures, axes)
    keys_mass = _faded(local[len(tables) - 1], whole.top, temperatures).masses[-1]

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


def _positive_rows(table: Table, dtype: jnp.dtype) -> Float[Array, "n d"]:
    """The rows that the labels name, as scored; zeros for labels outside the table."""
    assert table.labels is not None
    here = (table.labels >= 0) & (table.labels < table.rows.shape[0])
    rows = jnp.take(table.rows, table.labels, axis=0, mode="clip").astype(dtype)
    return jnp.where(here[:, None], table.prepare(rows), 0)


def _faded(state: Softmax, top: jax.Array, temperatures: Temperatures) -> Softmax:
    """The state with its sums relative to a larger `top`."""
    before = state.top - top
    faded = [jnp.exp(before / temperature) for temperature in temperatures]
    masses = (mass * fade for mass, fade in zip(state.masses, faded, strict=True))
    return Softmax(top, tuple(masses), state.pull * faded[0][None, :], state.above)


def _merge(state: Softmax, temperatures: Temperatures, axes: Axes) -> Softmax:
    """The softmax over all devices' candidates; `pull` stays this device's share."""
    if not axes:
        return state
    state = _faded(state, lax.pmax(state.top, axes), temperatures)
    masses, above = lax.psum((state.masses, state.above), axes)
    return state._replace(masses=masses, above=above)


def _ascent(
    queries: Float[Array, "n d"],
    bank: Float[Array, "k d"],
    positives: Int[Array, " n"] | None,
    shift: Float[Array, " n"],
    temperature: Float[Array, ""],
    scale: Float[Array, ""],
    *,
    axes: Axes,
    block_size: int | None,
) -> Float[Array, "k d"]:
    """The move of this device's rows of the bank."""
    table = Table(bank, None if positives is None else _local(positives, bank, axes))
    queries = queries.astype(shift.dtype)
    return _stream.ascent(queries, table, shift, temperature, scale, block_size)


def _nearest(
    keys: jax.Array, bank: jax.Array, *, axes: Axes, block_size: int | None
) -> Int[Array, " n"]:
    """The nearest rows over all devices; of devices that tie, the first."""
    keys = keys.astype(accumulator(keys, bank))
    best, index = _stream.nearest(keys, bank, block_size)
    if not axes:
        return index
    index += lax.axis_index(axes) * bank.shape[0]
    beaten = best < lax.pmax(best, axes)
    return lax.pmin(jnp.where(beaten, jnp.iinfo(jnp.int32).max, index), axes)


# The devices.


def _mesh() -> AbstractMesh | None:
    """The mesh to spread over, unless we are already on one device of it."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 or mesh.manual_axes else mesh


def _axes(mesh: AbstractMesh | None) -> Axes:
    return () if mesh is None else mesh.axis_names


def _spread(
    local: Callable, mesh: AbstractMesh | None, in_specs: Any, out_specs: Any
) -> Callable:
    """The function on every device of the mesh, or as it is where there is none."""
    if mesh is None:
        return local
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs)


def _sent_home(gradient: jax.Array, array: jax.Array) -> jax.Array:
    """In a caller's `shard_map`: the sum over the devices that share the array."""
    shared = tuple(_stream.axes_of(gradient) - _stream.axes_of(array))
    return lax.psum(gradient, shared) if shared else gradient


def _sum(x: jax.Array, axes: Axes) -> jax.Array:
    return lax.psum(x, axes) if axes else x


def _local(labels: jax.Array, table: jax.Array, axes: Axes) -> Int[Array, " n"]:
    """Row numbers of the whole table as row numbers of this device's part of it."""
    return labels - lax.axis_index(axes) * table.shape[0] if axes else labels


# The input.


def _check(
    rows: jax.Array,
    bank: jax.Array,
    block_size: int | None,
    *,
    names: tuple[str, str] = ("queries", "bank"),
) -> AbstractMesh | None:
    """Checks what all three functions take; returns the mesh to spread over."""
    arrays = dict(zip(names, (rows, bank), strict=True))
    checks.check_embeddings(**arrays)
    checks.check_same_width(**arrays)
    if block_size is not None:
        if not isinstance(block_size, int):
            raise TypeError(f"block_size: want an integer or None, got {block_size!r}")
        checks.check_at_least(1, block_size=block_size)
    mesh = _mesh()
    for name, array in arrays.items():
        if mesh is not None and array.shape[0] % mesh.size:
            raise ValueError(
                f"{name}: {array.shape[0]} rows cannot be shared evenly by the "
                f"{mesh.size} devices of the mesh"
            )
    return mesh


def _temperatures(
    temperature: float, bank_temperature: float | None, *arrays: jax.Array
) -> Temperatures:
    """The temperatures in the dtype of the sums: one where both players share it."""
    checks.check_positive(temperature=temperature)
    numbers = [temperature]
    if bank_temperature is not None:
        checks.check_positive(bank_temperature=bank_temperature)
        traced = isinstance(temperature, Tracer) or isinstance(bank_temperature, Tracer)
        if traced or temperature != bank_temperature:
            numbers.append(bank_temperature)
    return tuple(jnp.asarray(number, accumulator(*arrays)) for number in numbers)


def _detach(result: tuple[jax.Array, BankAux]) -> tuple[jax.Array, BankAux]:
    loss, aux = result
    return loss, lax.stop_gradient(aux)
