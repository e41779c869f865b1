"""Measurements of a run's bank at the end of an epoch, from its state alone.

An interrupted run thus measures the same as an uninterrupted one, and the training step
is not changed.
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

QUERIES = 128  # largest number of training examples that are embedded


class BankTelemetry:
    """Measures the bank that the queries of a method are compared with.

    Args:
        run: the run.
        bad: counter of unreadable images; None makes a new one.
    """

    def __init__(self, run: Pretraining, bad: BadImages | None = None) -> None:
        self._run, self._bad = run, bad
        # A method of the user may have no temperature.
        config: Any = run.method.settings
        temperature = getattr(config, "temperature", None)
        self._temperature = getattr(config, "bank_temperature", temperature)
        self._measure = jax.jit(self._figures)
        self._turn = jax.jit(self._momentum_turn)

    def row(self, state: TrainState, means: Mapping[str, float]) -> dict[str, float]:
        """The measurements by name; empty if no player is a bank.

        Args:
            state: state of the run.
            means: mean metrics of the epoch.
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
        """Training examples, taken evenly from the set, to make views of."""
        size = self._run.views.largest_photo_pixels
        part = open_part(self._run.data, "train", size_pixels=size, bad=self._bad)
        if part is None:
            return np.zeros(0)
        pieces = [found for found, _ in part.centers(spread_rows(len(part), QUERIES))]
        return np.concatenate(pieces) if pieces else np.zeros(0)

    def _figures(
        self, network: Network, bank: Float[Array, "k d"], examples: Array
    ) -> dict[str, Array]:
        # The first view as in training: the encoder may not accept others.
        first = dataclasses.replace(self._run.views, views=self._run.views.views[:1])
        (view,) = make_views(first)(self._run.keys.steps, examples)
        queries, _ = self._run.encoder.embed(network, view, train=False)
        return bank_figures(queries, bank, temperature=self._temperature)

    def _momentum_turn(
        self, inner: optax.OptState, bank: Float[Array, "k d"]
    ) -> dict[str, Array]:
        """The next step of the optimiser on the bank for a zero gradient."""
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
