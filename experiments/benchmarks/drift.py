"""Collapse of a bank at ImageNet's size: its game with a simulated, drifting encoder.

    python -m experiments.benchmarks.drift --out=FILE.json

Only the bank is trained; the encoder is a formula. An image's embedding is the sum of
its class's direction, its own direction and a smaller one of the view, and all
embeddings turn together by a small angle in each step. The bank has 65,536 entries,
filled with keys by a start-up phase, and plays the library's own games at the papers'
batch of 256. K/N is thus that of ImageNet; the response of an encoder is not simulated.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax.evaluation.bank_health import bank_figures
from caco_jax.losses.bank import adco_loss, caco_loss, nearest_entries
from caco_jax.losses.contrast import l2_normalize
from caco_jax.optim.optimizers import ascend, sgd
from caco_jax.programs.command import run as run_command
from caco_jax.programs.parser import Parser
from experiments.benchmarks.book import Book, Piece, Row
from experiments.benchmarks.timing import machine, require_known, require_least

BATCH, DIM = 256, 128
IMAGES, CLASSES = 1_281_167, 1000  # ImageNet's
_OF_CLASS, _OF_VIEW = 0.7, 0.4  # lengths of the class's direction and of the view's


class Setting(NamedTuple):
    """A game beside an encoder.

    Attributes:
        game: "adco" or "caco".
        temperature: of the bank.
        decay: of the bank's weights.
        rate: of the bank.
        degrees: angle by which embeddings turn in a step.
    """

    game: str = "adco"
    temperature: float = 0.02
    decay: float = 1e-4
    rate: float = 3.0
    degrees: float = 0.05


SETTINGS = {
    "adco, as published": Setting(),
    "adco, no decay": Setting(decay=0.0),
    "adco, bank temperature 0.12": Setting(temperature=0.12),
    "adco, four times the drift": Setting(degrees=0.2),
    "caco, as published": Setting("caco", temperature=0.08, decay=0.0),
    "caco, four times the drift": Setting(
        "caco", temperature=0.08, decay=0.0, degrees=0.2
    ),
}

COLUMNS = {
    "bank_mass": "mass on the bank",
    "bank_cosine": "nearest cosine",
    "bank_row_length": "row length",
    "bank_effective_rows": "effective rows",
    "bank_dead_share": "dead entries",
}


def embed(
    images: Array, view: PRNGKeyArray, turned: Float[Array, ""]
) -> Float[Array, "n d"]:
    """Unit embeddings [N, D] of one view of images, by number.

    Args:
        images: [N] numbers.
        view: random key of the view's direction.
        turned: angle in radians by which all embeddings have turned.
    """
    own = jax.random.key(1)
    centers = l2_normalize(jax.random.normal(jax.random.key(0), (CLASSES, DIM)))
    details = l2_normalize(
        jax.vmap(
            lambda image: jax.random.normal(jax.random.fold_in(own, image), (DIM,))
        )(images)
    )
    added = l2_normalize(jax.random.normal(view, (len(images), DIM)))
    share = (1 - _OF_CLASS**2) ** 0.5
    still = _OF_CLASS * centers[images % CLASSES] + share * details + _OF_VIEW * added
    one, other = jnp.split(l2_normalize(still), 2, axis=1)
    cos, sin = jnp.cos(turned), jnp.sin(turned)
    return jnp.concatenate([cos * one - sin * other, sin * one + cos * other], axis=1)


def payoff(
    setting: Setting, bank: Array, queries: Array, keys: Array
) -> tuple[Array, Array]:
    """A game's payoff of the bank, and the softmax probability on the bank.

    Args:
        setting: the game.
        bank: [K, D].
        queries: [N, D], unit rows.
        keys: [N, D] of the same images.
    """
    how: dict[str, Any] = {
        "temperature": setting.temperature,
        "bank_temperature": setting.temperature,
    }
    if setting.game == "adco":
        loss, aux = adco_loss(queries, keys, bank, **how)
        return loss, 1 - aux.batch_probability.mean()
    loss, _ = caco_loss(queries, nearest_entries(keys, bank), bank, **how)
    return loss, jnp.ones(())


def make_step(
    setting: Setting, optimizer: optax.GradientTransformation
) -> Callable[..., Any]:
    """A step of the bank: (bank, optimiser's state, number) -> the same and mass."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(bank: Array, state: Any, number: Array) -> tuple[Array, Any, Array]:
        drawn, first, second = jax.random.split(
            jax.random.fold_in(jax.random.key(2), number), 3
        )
        images = jax.random.randint(drawn, (BATCH,), 0, IMAGES)
        turned = jnp.radians(setting.degrees) * number
        queries, keys = (embed(images, view, turned) for view in (first, second))
        (_, mass), gradient = jax.value_and_grad(
            lambda bank: payoff(setting, bank, queries, keys), has_aux=True
        )(bank)
        updates, state = optimizer.update(gradient, state, bank)
        return optax.apply_updates(bank, updates), state, mass

    return step


def drift(setting: Setting, *, entries: int, steps: int) -> Row:
    """Plays a game and measures the bank at the end.

    Args:
        setting: the game.
        entries: K.
        steps: number of steps.
    """
    optimizer = ascend(sgd(setting.rate, momentum=0.9, weight_decay=setting.decay))
    bank = jax.jit(embed)(jnp.arange(entries), jax.random.key(3), jnp.zeros(()))
    state = optimizer.init(bank)
    step = make_step(setting, optimizer)
    mass = jnp.zeros(())
    for number in range(steps):
        bank, state, mass = step(bank, state, jnp.asarray(number))
    queries = embed(
        jnp.arange(BATCH), jax.random.key(4), jnp.radians(setting.degrees) * steps
    )
    figures = jax.jit(bank_figures)(queries, bank, temperature=setting.temperature)
    found = {name: float(value) for name, value in figures.items()}
    return {"setting": setting._asdict(), **found, "bank_mass": float(mass)}


def table(rows: Sequence[Row]) -> str:
    """One line for each setting, as Markdown."""
    lines = [["setting", *COLUMNS.values()], ["---"] * (1 + len(COLUMNS))]
    lines += [[row["arm"], *(f"{row[key]:.3g}" for key in COLUMNS)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Parses flags, plays games that are not in the file yet, prints the table."""
    parser = Parser(description=__doc__)
    parser.add_argument("--settings", nargs="+", default=[*SETTINGS], metavar="NAME")
    parser.add_argument("--entries", type=int, default=65536)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", default="runs/bench/drift.json", help="JSON file")
    flags = parser.parse_args()
    require_known("settings", flags.settings, SETTINGS)
    require_least(flags, entries=1, steps=1)
    book = Book(
        pathlib.Path(flags.out), {"entries": flags.entries, "steps": flags.steps}
    )
    for name in flags.settings:
        piece = Piece("drift", name, 0)
        with book.claim(piece) as mine:
            if mine and piece not in book.rows():
                row = drift(SETTINGS[name], entries=flags.entries, steps=flags.steps)
                book.add(piece, {**row, "machine": machine()})
    print(table(list(book.rows().values())))


if __name__ == "__main__":
    run_command(main)
