"""What is measured of a run's bank at the end of an epoch, of its state alone.

So an interrupted run finds what an uninterrupted one does, and the step is as it was.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from caco_jax.data.labelled import open_part, spread_rows
from caco_jax.data.pipeline import BadImages
from caco_jax.data.views import make_views
from caco_jax.evaluation.bank_health import bank_figures, chance_cosine, row_turns
from caco_jax.methods.method import Network
from caco_jax.optim.optimizers import ascend
from caco_jax.runs.pretraining import Pretraining
from caco_jax.training.sharding import alone
from caco_jax.training.state import TrainState

QUERIES = 128  # training examples that are embedded, at most


class BankTelemetry:
    """Measures the player that a method's queries are scored against.

    Args:
        run: the run.
        bad: counts unreadable images; None: anew.
    """

    def __init__(self, run: Pretraining, bad: BadImages | None = None) -> None:
        self._run, self._bad = run, bad
        # A method of one's own need not have a temperature.
        config: Any = run.method.settings
        temperature = getattr(config, "temperature", None)
        self._temperature = getattr(config, "bank_temperature", temperature)
        self._measure = jax.jit(self._figures)
        self._turn = jax.jit(self._momentum_turn)

    def row(self, state: TrainState, means: Mapping[str, float]) -> dict[str, float]:
        """The figures by name; none where no player is a bank.

        Args:
            state: of the run.
            means: of the epoch's metrics.
        """
        name = self._run.method.memory
        bank = state.players.get(name) if name is not None else None
        if bank is None:
            return {}
        network = Network(state.players["encoder"], state.stats)
        moves = name in self._run.optimizers
        inner = state.opt_state.inner_states[name].inner_state if moves else ()
        with alone((network, bank, inner), self._run.mesh) as (network, bank, inner):
            found = self._turn(inner, bank) if moves else {}
            if len(self._examples):
                found |= self._measure(network, bank, self._examples)
            figures = {key: float(value) for key, value in found.items()}
        if "bank_cosine" in figures and bank.shape[1] > 1:
            figures["bank_chance_cosine"] = chance_cosine(*bank.shape)
        if "batch_probability" in means:
            figures["bank_mass"] = 1 - means["batch_probability"]
        return figures

    @functools.cached_property
    def _examples(self) -> np.ndarray:
        """Training examples, spread evenly, that views are made of."""
        size = self._run.views.largest_photo_pixels
        part = open_part(self._run.data, "train", size_pixels=size, bad=self._bad)
        if part is None:
            return np.zeros(0)
        pieces = [found for found, _ in part.centers(spread_rows(len(part), QUERIES))]
        return np.concatenate(pieces) if pieces else np.zeros(0)

    def _figures(
        self, network: Network, bank: Float[Array, "k d"], examples: Array
    ) -> dict[str, Array]:
        # The first view as training makes it: the encoder need not take others.
        first = dataclasses.replace(self._run.views, views=self._run.views.views[:1])
        (view,) = make_views(first)(self._run.keys.steps, examples)
        queries, _ = self._run.encoder.embed(network, view, train=False)
        return bank_figures(queries, bank, temperature=self._temperature)

    def _momentum_turn(
        self, inner: optax.OptState, bank: Float[Array, "k d"]
    ) -> dict[str, Array]:
        """What the optimiser's next step does to the bank if nothing pulls it."""
        name = self._run.method.memory
        assert name is not None
        optimizer = self._run.player_optimizer(name)
        if self._run.method.moves[name] == "ascend":
            optimizer = ascend(optimizer)
        others = {other: optax.MaskedNode() for other in self._run.method.moves}
        still = {**others, name: jnp.zeros_like(bank)}
        updates, _ = optimizer.update(still, inner, {**others, name: bank})
        turns = row_turns(bank, updates[name])
        return {"bank_turn_degrees": jnp.median(turns)}
