"""Bank use: which entries were recently the positive of a query.

Of the latter: steps since each was last chosen.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MOVERS = ("queries", "keys")
NEVER = 2**30
RECENT_STEPS = 100


def new_bank_ages(bank_size: int) -> Int[Array, " k"]:
    """Initial ages of the entries: no entry was chosen yet."""
    return jnp.full((bank_size,), NEVER, jnp.int32)


def refresh_ages(
    ages: Int[Array, " k"], positives: Int[Array, " m"]
) -> Int[Array, " k"]:
    """Updates the ages after a step: chosen entries get age 0, others one more."""
    older = jnp.where(ages < NEVER, ages + 1, NEVER)
    return older.at[positives].set(0)


def bank_use_metrics(ages: Int[Array, " k"]) -> dict[str, Float[Array, ""]]:
    """Share of entries ever chosen, and chosen within the last `RECENT_STEPS`."""
    return {
        "bank_used_ever": jnp.mean(ages < NEVER, dtype=jnp.float32),
        "bank_used_recently": jnp.mean(ages < RECENT_STEPS, dtype=jnp.float32),
    }
