"""Diagnostics of a bank: rotation of its rows, distance to queries, softmax shares.

Pure functions of arrays, to be jitted by the caller; the rows of a bank may be sharded
over a mesh. No array is larger than a few queries times the bank.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from caco_jax.evaluation.checks import as_floats
from caco_jax.losses.contrast import l2_normalize, similarities

# An entry is dead if its share of the softmax is below this fraction of 1/K.
DEAD_SHARE = 0.01


def bank_figures(
    queries: Float[Array, "n d"],
    bank: Float[Array, "k d"],
    *,
    temperature: float | None = None,
) -> dict[str, Float[Array, ""]]:
    """Diagnostics of a bank, given some queries.

    Args:
        queries: [N, D] floats; only their directions matter.
        bank: [K, D] floats, raw rows.
        temperature: temperature of the bank's softmax, above 0; None if it has none.

    Returns:
        "bank_row_length": median Euclidean length of the raw rows; a key has 1.
        "bank_directions": `effective_directions`, 1 to D.
        "bank_cosine": cosine of a query with its nearest entry, mean over queries.
        With a temperature also
        "bank_effective_rows": exp of the entropy of the entries' shares in the softmax
        over the bank alone: 1 if one entry gets all of it and K if all entries get
        equal shares; and
        "bank_dead_share": fraction of dead entries, whose share of that softmax is
        below `DEAD_SHARE` / K.
    """
    bank = as_floats(bank)
    rows = l2_normalize(bank)
    cosines = similarities(l2_normalize(as_floats(queries)), rows)  # [N, K]
    found = {
        "bank_row_length": jnp.median(jnp.linalg.norm(bank, axis=1)),
        "bank_directions": effective_directions(rows),
        "bank_cosine": jnp.max(cosines, axis=1).mean(),
    }
    if temperature is not None:
        shares = jax.nn.softmax(cosines / temperature, axis=1).mean(axis=0)
        found["bank_effective_rows"] = effective_number(shares)
        dead = shares * len(shares) < DEAD_SHARE
        found["bank_dead_share"] = jnp.mean(dead, dtype=shares.dtype)
    return found


def effective_number(shares: Float[Array, " k"]) -> Float[Array, ""]:
    """The exponential of the entropy of shares: k for k equal shares, 0 for none."""
    total = jnp.sum(shares)
    shares = shares / jnp.where(total > 0, total, 1)
    entropy = -jnp.sum(jax.scipy.special.xlogy(shares, shares))
    return jnp.where(total > 0, jnp.exp(entropy), 0)


def effective_directions(rows: Float[Array, "k d"]) -> Float[Array, ""]:
    """Effective rank: `effective_number` of the squared singular values of the rows.

    The rows are not centred. RankMe (arXiv:2210.02885) uses singular values instead of
    their squares; this needs only the [D, D] matrix of products, in which the smallest
    singular values are lost to rounding.
    """
    products = jnp.einsum("kd,ke->de", rows, rows, precision="highest")
    return effective_number(jnp.maximum(jnp.linalg.eigvalsh(products), 0))


def row_turns(
    bank: Float[Array, "k d"], updates: Float[Array, "k d"]
) -> Float[Array, " k"]:
    """Angle in degrees by which its update turns each row; 0 for a row of zeros."""
    rows = l2_normalize(bank)
    along = jnp.sum(updates * rows, axis=1)
    across = jnp.linalg.norm(updates - along[:, None] * rows, axis=1)
    ahead = jnp.linalg.norm(bank, axis=1) + along
    return jnp.degrees(jnp.arctan2(across, ahead))


def chance_cosine(rows: int, width: int) -> float:
    """Median cosine similarity of a query to the nearest of K random directions.

    A random direction's squared cosine with a query is Beta(1/2, (D - 1)/2).

    Args:
        rows: K, number of directions.
        width: D of the space, at least 2.
    """
    from scipy.special import betaincinv

    # The median of the largest of K: half of all draws have none above it.
    beyond = -(2.0 ** (-1 / rows) - 1)
    # One of two symmetric tails; the median of a single direction is 0.
    tail = min(2 * beyond, 1.0)
    return float((1 - betaincinv((width - 1) / 2, 0.5, tail)) ** 0.5)
