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

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.sharding import AbstractMesh
from jaxtyping import Array, Float, Int

from caco_jax.losses import _game, checks
from caco_jax.losses._game import BankAux
from caco_jax.losses._stream import ROLES, Temperatures, Walk
from caco_jax.losses.contrast import HIGHEST, PRECISIONS, accumulator

__all__ = [
    "PRECISIONS",
    "ROLES",
    "BankAux",
    "adco_loss",
    "caco_loss",
    "nearest_entries",
]


def nearest_entries(
    keys: Float[Array, "n d"],
    bank: Float[Array, "k d"],
    *,
    block_size: int | None = None,
    precision: str = HIGHEST,
) -> Int[Array, " n"]:
    """CaCo's positives: for each key the bank row with the largest cosine.

    No gradient flows through it.

    Args:
        keys: [N, D] floats; only their directions matter.
        bank: [K, D] floats, raw rows of any length.
        block_size: bank rows scored at a time; None chooses one.
        precision: precision of the matrix products, one of `PRECISIONS`.

    Returns:
        [N] int32 indices in [0, K); of rows that tie, the first.

    Raises:
        ValueError: an empty array, widths that differ, a block size below 1, an unknown
            precision, or K or N that the devices of the mesh do not divide.
        TypeError: an array does not hold floats, or block_size is not an integer.

    References:
        Wang et al. 2022, arXiv:2203.14370.
    """
    mesh, how = _check(keys, bank, block_size, precision, names=("keys", "bank"))
    keys, bank = lax.stop_gradient((keys, bank))
    return _game.nearest(_game.Plan(mesh, how), keys, bank)


def caco_loss(
    queries: Float[Array, "n d"],
    positives: Int[Array, " n"],
    bank: Float[Array, "k d"],
    *,
    temperature: float,
    bank_temperature: float | None = None,
    movers: Float[Array, "n d"] | None = None,
    roles: str = "both",
    block_size: int | None = None,
    precision: str = HIGHEST,
) -> tuple[Float[Array, ""], BankAux]:
    """CaCo loss: InfoNCE over the bank; the positive of query n is positives[n].

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
        temperature: temperature of the encoder, above 0. No gradient reaches it.
        bank_temperature: temperature of the bank, above 0; None uses the encoder's.
        movers: [N, D] unit rows that the bank moves toward in the place of the queries
            in step_j, with the same c_nj; no gradient reaches them. None uses the
            queries.
        roles: in which a row is moved: "positives" leaves out the terms of step_j
            where it is a negative, "negatives" those where it is a positive.
        block_size: bank rows scored at a time; None chooses one.
        precision: precision of the matrix products, one of `PRECISIONS`.

    Returns:
        The scalar in nats, at least float32, and a `BankAux`.

    Raises:
        ValueError: an empty array, shapes that do not fit, a temperature that is not
            above 0, unknown roles or precision, a block size below 1, or K or N that
            the devices of the mesh do not divide.
        TypeError: embeddings that are not floats, positives that are not integers, or
            a block_size that is no integer.

    References:
        Wang et al. 2022, arXiv:2203.14370.
    """
    mesh, how = _check(queries, bank, block_size, precision)
    if not jnp.issubdtype(positives.dtype, jnp.integer):
        raise TypeError(f"positives: expected integer indices, got {positives.dtype}")
    if positives.shape != queries.shape[:1]:
        raise ValueError(
            f"positives: expected one for each query, got shape "
            f"{tuple(positives.shape)} for queries {tuple(queries.shape)}"
        )
    checks.check_choice(ROLES, roles=roles)
    movers = _movers(movers, queries)
    temperatures = _temperatures(temperature, bank_temperature, queries, bank)
    positives = positives.astype(jnp.int32)
    plan = _game.Plan(mesh, how, roles=roles)
    game = _game.play(plan, queries, bank, None, positives, temperatures, movers)
    return _detach(game)


def adco_loss(
    queries: Float[Array, "n d"],
    keys: Float[Array, "n d"],
    bank: Float[Array, "k d"],
    *,
    temperature: float,
    bank_temperature: float | None = None,
    batch_keys: bool = True,
    movers: Float[Array, "n d"] | None = None,
    block_size: int | None = None,
    precision: str = HIGHEST,
) -> tuple[Float[Array, ""], BankAux]:
    """AdCo loss: InfoNCE over the keys of the batch and the bank; key n is positive.

    The scalar is the mean cross entropy over scores [q_n . k_1 .. q_n . k_N ;
    q_n . w_1 .. q_n . w_K] / temperature with w_j = W_j / |W_j| and label n. Without
    the batch's other keys they are [q_n . k_n ; q_n . w_1 .. q_n . w_K], label 0.
    Gradients are those of a game:

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
        temperature: temperature of the encoder, above 0. No gradient reaches it.
        bank_temperature: temperature of the bank, above 0; None uses the encoder's.
        batch_keys: whether the other queries' keys are candidates too.
        movers: [N, D] unit rows that the bank moves toward in the place of the queries
            in step_j, with the same p_nj; no gradient reaches them. None uses the
            queries.
        block_size: candidates scored at a time; None chooses one.
        precision: precision of the matrix products, one of `PRECISIONS`.

    Returns:
        The scalar in nats, at least float32, and a `BankAux`.

    Raises:
        ValueError: an empty array, shapes that do not fit, a temperature that is not
            above 0, an unknown precision, a block size below 1, or K or N that the
            devices of the mesh do not divide.
        TypeError: embeddings that are not floats, or a block_size that is no integer.

    References:
        Hu et al. 2021, arXiv:2011.08435.
    """
    checks.check_embeddings(keys=keys)
    checks.check_same_shape(queries=queries, keys=keys)
    mesh, how = _check(queries, bank, block_size, precision)
    temperatures = _temperatures(temperature, bank_temperature, queries, bank, keys)
    keys, movers = lax.stop_gradient(keys), _movers(movers, queries)
    plan = _game.Plan(mesh, how, batch_keys=batch_keys)
    game = _game.play(plan, queries, bank, keys, None, temperatures, movers)
    return _detach(game)


def _check(
    rows: jax.Array,
    bank: jax.Array,
    block_size: int | None,
    precision: str,
    *,
    names: tuple[str, str] = ("queries", "bank"),
) -> tuple[AbstractMesh | None, Walk]:
    """Checks the arguments; returns the mesh and the settings of the pass."""
    arrays = dict(zip(names, (rows, bank), strict=True))
    checks.check_embeddings(**arrays)
    checks.check_same_width(**arrays)
    if block_size is not None:
        if not isinstance(block_size, int):
            raise TypeError(
                f"block_size: expected an integer or None, got {block_size!r}"
            )
        checks.check_at_least(1, block_size=block_size)
    checks.check_choice(PRECISIONS, precision=precision)
    mesh = _game.find_mesh()
    for name, array in arrays.items():
        if mesh is not None and array.shape[0] % mesh.size:
            raise ValueError(
                f"{name}: expected a multiple of the {mesh.size} devices of the mesh, "
                f"got {array.shape[0]} rows"
            )
    return mesh, Walk(block_size, precision)


def _movers(movers: jax.Array | None, queries: jax.Array) -> jax.Array | None:
    """The checked targets of the bank's moves, without a gradient."""
    if movers is None:
        return None
    checks.check_embeddings(movers=movers)
    checks.check_same_shape(queries=queries, movers=movers)
    return lax.stop_gradient(movers)


def _temperatures(
    temperature: float, bank_temperature: float | None, *arrays: jax.Array
) -> Temperatures:
    """The temperatures in the dtype of the sums: one if both players share it."""
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
