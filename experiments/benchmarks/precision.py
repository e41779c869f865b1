"""Accuracy of the bank games at each precision of their products, against float64.

    python -m experiments.benchmarks.precision [--out=FILE.json] [--queries=…]

A CPU always multiplies in float32, so the rounding of accelerators is emulated:
"default" is one pass in bfloat16 on a TPU and one in TF32 on NVIDIA; "high" is three
passes in bfloat16 on a TPU and TF32 on NVIDIA; "highest" is float32. Only the products
are rounded. Queries, keys and bank rows are drawn around shared centres, so that many
rows are nearly as near to a key as its nearest row.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing

Product = Callable[[jax.Array, jax.Array], jax.Array]
BFLOAT16_BITS, TF32_BITS = (
    7,
    10,
)  # bits of the mantissa; exponents have 8 bits in both formats
CENTRES = 1000
SPREAD = (
    0.5  # standard deviation of a row around its centre, relative to the centre's norm
)
# By game: published temperatures of encoder and bank, and the place of the positive.
GAMES = {"CaCo": (0.1, 0.1, "bank"), "AdCo": (0.12, 0.02, "key")}


def rounded(bits: int, passes: int = 1) -> Product:
    """Emulates a product of float32 matrices on hardware with `bits` of mantissa.

    Args:
        bits: of the mantissa that the unit reads.
        passes: 1: both factors are rounded once. 3: what is lost is multiplied in two
            passes more, all but the product of both remainders.
    """

    def narrow(x: jax.Array) -> jax.Array:
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits)

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        high_a, high_b = narrow(a), narrow(b)
        found = high_a @ high_b
        if passes == 3:
            found += high_a @ narrow(b - high_b) + narrow(a - high_a) @ high_b
        return found

    return product


PRODUCTS: dict[str, Product] = {
    "highest: float32": jnp.matmul,
    "high, TPU: bfloat16 in three passes": rounded(BFLOAT16_BITS, passes=3),
    "default and high, NVIDIA: TF32": rounded(TF32_BITS),
    "default, TPU: bfloat16": rounded(BFLOAT16_BITS),
}


def play(
    arrays: dict[str, jax.Array], game: str, product: Product
) -> dict[str, jax.Array]:
    """Loss, both gradients and the nearest rows, with all N x K scores in memory.

    Args:
        arrays: unit "queries" [N, D], "keys" [N, D] and "bank" [K, D], and "positives"
            [N], the nearest row of each key.
        game: one of `GAMES`.
        product: function that multiplies two matrices.
    """
    queries, keys, bank = (arrays[name] for name in ("queries", "keys", "bank"))
    temperature, bank_temperature, where = GAMES[game]
    own = keys if where == "key" else bank[arrays["positives"]]
    table = jnp.concatenate([keys, bank]) if where == "key" else bank
    labels = jnp.arange(len(keys)) if where == "key" else arrays["positives"]
    scores = product(queries, table.T)
    log_p = jax.nn.log_softmax(scores / temperature)
    losses = -jnp.take_along_axis(log_p, labels[:, None], axis=1)
    descent = (product(jnp.exp(log_p), table) - own) / (len(queries) * temperature)
    pull = jax.nn.softmax(scores / bank_temperature)
    if where == "bank":
        pull = jnp.where(jax.nn.one_hot(labels, len(bank), dtype=bool), 1 - pull, pull)
    pull = pull[:, -len(bank) :]
    ascent = product(pull.T, queries) / (len(queries) * bank_temperature)
    ascent -= jnp.sum(ascent * bank, axis=1, keepdims=True) * bank
    nearest = jnp.argmax(product(keys, bank.T), axis=1)
    return dict(loss=losses.mean(), encoder=descent, bank=ascent, nearest=nearest)


def errors(
    found: dict[str, jax.Array], exact: dict[str, jax.Array]
) -> dict[str, float]:
    """Relative errors of loss and gradients, and the share of equal nearest rows."""

    def relative(name: str) -> float:
        of = np.asarray(found[name], np.float64)
        to = np.asarray(exact[name], np.float64)
        return float(np.linalg.norm(of - to) / np.linalg.norm(to))

    same = float(np.mean(np.asarray(found["nearest"]) == np.asarray(exact["nearest"])))
    return {name: relative(name) for name in ("loss", "encoder", "bank")} | {
        "same_nearest": same
    }


def make_arrays(queries: int, entries: int, dim: int) -> dict[str, np.ndarray]:
    """Unit rows around shared centres in float64; a key is near its query."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CENTRES, dim))

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def draw(number: int) -> np.ndarray:
        near = centres[rng.integers(CENTRES, size=number)]
        return near + SPREAD * rng.normal(size=near.shape)

    images = draw(queries)
    views = [unit(images + SPREAD * rng.normal(size=images.shape)) for _ in range(2)]
    bank = unit(draw(entries))
    positives = np.argmax(views[1] @ bank.T, axis=1)
    return dict(queries=views[0], keys=views[1], bank=bank, positives=positives)


def measure(queries: int, entries: int, dim: int) -> list[dict[str, Any]]:
    """The errors of each game at each precision."""
    arrays = make_arrays(queries, entries, dim)
    rows: list[dict[str, Any]] = []
    with jax.enable_x64(True):
        exact = {
            game: play(_as(arrays, jnp.float64), game, jnp.matmul) for game in GAMES
        }
    for name, product in PRODUCTS.items():
        for game in GAMES:
            found = play(_as(arrays, jnp.float32), game, product)
            rows.append({"products": name, "game": game, **errors(found, exact[game])})
    return rows


def _as(arrays: dict[str, np.ndarray], dtype: Any) -> dict[str, jax.Array]:
    floats = {k: jnp.asarray(v, dtype) for k, v in arrays.items() if k != "positives"}
    return floats | {"positives": jnp.asarray(arrays["positives"], jnp.int32)}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| products | game | loss | encoder's gradient | bank's gradient | same row |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = " | ".join(f"{row[name]:.1e}" for name in ("loss", "encoder", "bank"))
        lines.append(
            f"| {row['products']} | {row['game']} | {numbers} | "
            f"{row['same_nearest']:.2%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and, with --out, saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--entries", type=int, default=65536)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--out")
    options = parser.parse_args()
    rows = measure(options.queries, options.entries, options.dim)
    print(table(rows))
    if options.out:
        versions = timing.machine(("jax", "jaxlib", "numpy"))
        figures = {"settings": vars(options), "machine": versions, "rows": rows}
        timing.write_json(options.out, figures)


if __name__ == "__main__":
    main()
