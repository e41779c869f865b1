"""Times CaCo's two-view bank step beside straightforward PyTorch.

    python -m experiments.benchmarks.bank [--out=FILE.json] [--smoke]

One step: the positives of both views, the loss of both directions, its gradient for the
queries, the bank's direction, momentum and update. Ours is compiled with bank and
velocity donated. Also measured: temporary memory of the compiled program, and time and
memory against the number of entries.
"""

import argparse
import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax.losses.bank import caco_loss, nearest_entries
from experiments.benchmarks import timing

MEGABYTE = 1e6
MOMENTUM, LEARNING_RATE = 0.9, 0.03
Arrays = dict[str, np.ndarray]


def main() -> None:
    """Measures, prints and, with --out, saves."""
    options = _options()
    print(
        f"two views of {options.queries} queries, {options.entries} entries, "
        f"{options.dim} dimensions, float32, {timing.cores()} cores"
    )
    figures = {
        "settings": vars(options),
        "machine": timing.machine(("jax", "jaxlib", "numpy", "torch")),
        **compare(options),
        "growth": measure_growth(options),
    }
    if options.out:
        timing.write_json(options.out, figures)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Times our step and PyTorch's, and prints them."""
    arrays = random_arrays(options.queries, options.entries, options.dim)
    temperatures = options.temperature, options.bank_temperature
    ours, memory = compiled_step(arrays, *temperatures)
    candidates = {"ours": ours}
    if timing.version("torch") is None:
        print("PyTorch is not installed: ours alone is measured")
    else:
        candidates["PyTorch"] = torch_step(arrays, *temperatures)
    timings = timing.alternate(candidates, runs=options.runs)
    print(timing.table(timings))
    print(f"temporary memory of ours: {memory / MEGABYTE:.1f} MB")
    figures: dict[str, Any] = {"seconds": timings, "temporary_bytes": memory}
    if "PyTorch" in timings:
        ratio = timings["PyTorch"].median / timings["ours"].median
        print(f"PyTorch / ours, medians: {ratio:.2f}")
        figures["torch_over_ours"] = ratio
    return figures


def random_arrays(num_queries: int, num_entries: int, dim: int) -> Arrays:
    """Unit queries and keys of two views; a raw bank and its velocity."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    views = normal(2, 2, num_queries, dim)
    views /= np.linalg.norm(views, axis=-1, keepdims=True)
    bank = normal(num_entries, dim)
    return {
        "queries": views[0],
        "keys": views[1],
        "bank": bank,
        "velocity": np.zeros_like(bank),
    }


def bank_step(
    bank: jax.Array,
    velocity: jax.Array,
    queries: jax.Array,
    keys: jax.Array,
    *,
    temperature: float,
    bank_temperature: float,
    precision: str = "highest",
) -> tuple[jax.Array, ...]:
    """The new bank and velocity, the loss, and its gradient for the queries.

    Args:
        bank: [K, D].
        velocity: [K, D].
        queries: [2, N, D] of both views.
        keys: [2, N, D] of both views.
        temperature: temperature of the encoder's loss.
        bank_temperature: temperature of the bank's payoff.
        precision: precision of the matrix products.
    """
    # Both directions share the passes over the bank.
    rows = queries.reshape(-1, queries.shape[-1])
    positives = nearest_entries(
        keys[::-1].reshape(rows.shape), bank, precision=precision
    )

    def payoff(rows: jax.Array, bank: jax.Array) -> jax.Array:
        loss, _ = caco_loss(
            rows,
            positives,
            bank,
            temperature=temperature,
            bank_temperature=bank_temperature,
            precision=precision,
        )
        return 2 * loss  # the two directions are summed

    loss, (descent, ascent) = jax.value_and_grad(payoff, (0, 1))(rows, bank)
    velocity = MOMENTUM * velocity - ascent
    bank = bank - LEARNING_RATE * velocity
    return bank, velocity, loss, descent.reshape(queries.shape)


def compiled_step(
    arrays: Arrays, temperature: float, bank_temperature: float
) -> tuple[Callable[[], object], int]:
    """A function that runs our step on its own state, and its temporary bytes."""
    step = functools.partial(
        bank_step, temperature=temperature, bank_temperature=bank_temperature
    )
    names = ("bank", "velocity", "queries", "keys")
    bank, velocity, queries, keys = (jnp.array(arrays[name]) for name in names)
    compiled = (
        jax.jit(step, donate_argnums=(0, 1))
        .lower(bank, velocity, queries, keys)
        .compile()
    )
    state = [bank, velocity]

    def run() -> object:
        *state[:], loss, descent = compiled(*state, queries, keys)
        return state, loss, descent

    memory = compiled.memory_analysis()
    assert memory is not None, "this backend does not tell its memory"
    return run, memory.temp_size_in_bytes


def torch_step(
    arrays: Arrays, temperature: float, bank_temperature: float
) -> Callable[[], object]:
    """The same step in straightforward PyTorch: whole matrices of scores."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(timing.cores())
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    return functools.partial(
        _torch_step,
        torch,
        **tensors,
        temperature=temperature,
        bank_temperature=bank_temperature,
    )


def _torch_step(
    torch: Any,
    *,
    bank: Any,
    velocity: Any,
    queries: Any,
    keys: Any,
    temperature: float,
    bank_temperature: float,
) -> tuple[Any, Any]:
    lengths = bank.norm(dim=1, keepdim=True)
    entries = bank / lengths
    queries = queries.clone().requires_grad_()
    loss, directions = torch.zeros(()), []
    for query, key in zip(queries, keys.flip(0), strict=True):
        with torch.no_grad():
            positives = (key @ entries.T).argmax(dim=1)
        cosines = query @ entries.T
        loss = loss + torch.nn.functional.cross_entropy(
            cosines / temperature, positives
        )
        directions.append((query.detach(), positives, cosines.detach()))
    loss.backward()

    with torch.no_grad():
        move = torch.zeros_like(bank)
        for query, positives, cosines in directions:
            weights = torch.softmax(cosines / bank_temperature, dim=1)
            rows = torch.arange(len(query))
            weights[rows, positives] = 1 - weights[rows, positives]
            along = (weights * cosines).sum(dim=0)[:, None]
            pull = weights.T @ query - along * entries
            move += pull / (len(query) * bank_temperature * lengths)
        velocity.mul_(MOMENTUM).sub_(move)
        bank.sub_(LEARNING_RATE * velocity)
    return loss.detach(), queries.grad


def measure_growth(options: argparse.Namespace) -> list[dict[str, float]]:
    """Time per entry, and memory beyond bank, velocity and gradient, against K."""
    runs, beyond = {}, {}
    for entries in (options.large // 4, options.large // 2, options.large):
        arrays = random_arrays(options.queries, entries, options.dim)
        runs[f"{entries:,} entries"], memory = compiled_step(
            arrays, options.temperature, options.bank_temperature
        )
        beyond[entries] = memory - arrays["bank"].nbytes
    timings = timing.alternate(runs, runs=options.large_runs)
    print(timing.table(timings))
    rows = []
    for (entries, extra), took in zip(beyond.items(), timings.values(), strict=True):
        each = 1e9 * took.median / entries
        print(
            f"{entries:,} entries: {each:.0f} ns an entry, {extra / MEGABYTE:.1f} MB "
            "beyond bank, velocity and gradient"
        )
        rows.append(
            {
                "entries": entries,
                **took._asdict(),
                "nanoseconds_an_entry": each,
                "temporary_bytes_beyond_gradient": extra,
            }
        )
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="JSON file to write the results to.")
    parser.add_argument(
        "--smoke", action="store_true", help="Use tiny sizes and one run."
    )
    parser.add_argument(
        "--queries", type=_count, default=256, help="Queries of each view."
    )
    parser.add_argument(
        "--entries", type=_count, default=65536, help="Entries of the bank."
    )
    parser.add_argument(
        "--dim", type=_count, default=128, help="Width of the embedding."
    )
    parser.add_argument(
        "--large",
        type=_count,
        default=2**20,
        help="Largest number of entries in the growth measurement.",
    )
    parser.add_argument(
        "--runs", type=_count, default=15, help="Timed runs of each candidate."
    )
    parser.add_argument("--large-runs", type=_count, default=5)
    parser.add_argument("--temperature", type=float, default=0.08)
    parser.add_argument("--bank-temperature", type=float, default=0.08)
    options = parser.parse_args()
    if options.smoke:
        options.queries, options.entries, options.dim = 8, 256, 16
        options.large, options.runs, options.large_runs = 1024, 1, 1
    return options


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {number}")
    return number


if __name__ == "__main__":
    main()
