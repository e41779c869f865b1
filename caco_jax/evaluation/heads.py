"""Several linear heads on the same features, each with its rate and weight decay.

The published ImageNet accuracies are from SGD under augmentation with a tuned learning
rate. Here the candidates train side by side: the backbone, nearly all of the cost, runs
once for all of them.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from caco_jax.evaluation.plans import Protocol
from caco_jax.optim import optimizers, schedules

INITIAL_DEVIATION = (
    0.01  # standard deviation of the heads' initial weights, as in the papers' code
)


class Setting(NamedTuple):
    """Learning rate and weight decay of one head."""

    learning_rate: float
    weight_decay: float


class Heads(NamedTuple):
    """Linear classifiers on unstandardised features; the first axis is the head."""

    weights: Float[Array, "h c f"]
    bias: Float[Array, "h c"]


class HeadsState(NamedTuple):
    """Training state: heads and optimiser state for each weight decay."""

    groups: tuple[Heads, ...]
    opt_states: tuple[Any, ...]


class Sweep:
    """The heads of a protocol and their updates; pure functions of `HeadsState`.

    Args:
        protocol: learning rates, weight decays and other settings.
        steps_per_epoch: steps in an epoch, for the schedule.
    """

    def __init__(self, protocol: Protocol, *, steps_per_epoch: int) -> None:
        self._rates = protocol.learning_rates
        relative = _schedule(protocol, steps_per_epoch)
        self._transformations = [
            _transformation(protocol, relative, decay)
            for decay in protocol.weight_decays
        ]
        decays_rates = itertools.product(protocol.weight_decays, self._rates)
        self.settings = [Setting(rate, decay) for decay, rate in decays_rates]

    def init(
        self, key: PRNGKeyArray, *, features: int, num_classes: int, dtype: Any = None
    ) -> HeadsState:
        """Initial heads, all with the same weights.

        Args:
            key: random key of their weights.
            features: F.
            num_classes: C.
            dtype: dtype of the weights; None: JAX's default float.
        """
        shape = (num_classes, features)
        weights = INITIAL_DEVIATION * jax.random.normal(key, shape, dtype)
        one = Heads(weights, jnp.zeros(num_classes, weights.dtype))
        count = len(self._rates)
        # A copy for each, because a state's buffers may be donated.
        groups = tuple(
            jax.tree.map(lambda leaf: jnp.stack([leaf] * count), one)
            for _ in self._transformations
        )
        pairs = zip(self._transformations, groups, strict=True)
        return HeadsState(groups, tuple(jax.vmap(tx.init)(g) for tx, g in pairs))

    def step(
        self,
        state: HeadsState,
        features: Float[Array, "n f"],
        labels: Int[Array, " n"],
    ) -> tuple[HeadsState, Float[Array, " h"]]:
        """Updates all heads on a batch; returns them and the losses before that."""
        (_, losses), gradients = jax.value_and_grad(_total_loss, has_aux=True)(
            state.groups, features, labels
        )
        rates = jnp.asarray(self._rates, features.dtype)
        groups, opt_states = [], []
        for tx, group, gradient, opt_state in zip(
            self._transformations,
            state.groups,
            gradients,
            state.opt_states,
            strict=True,
        ):
            moved, opt_state = jax.vmap(functools.partial(_move, tx))(
                group, gradient, opt_state, rates
            )
            groups.append(moved)
            opt_states.append(opt_state)
        return HeadsState(tuple(groups), tuple(opt_states)), losses

    @staticmethod
    def heads(state: HeadsState) -> Heads:
        """All heads in the order of `settings`."""
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *state.groups)


@jax.jit
def head_scores(heads: Heads, features: Float[Array, "n f"]) -> Float[Array, "n h c"]:
    """The scores of each head."""
    # The fastest layout on a CPU: see linear.minimise.
    scores = jnp.einsum("nf,hcf->nhc", features, heads.weights, precision="highest")
    return scores + heads.bias[None]


@jax.jit
def head_hits(
    heads: Heads, features: Float[Array, "n f"], labels: Int[Array, " n"]
) -> Float[Array, " h"]:
    """Number of rows that each head classifies correctly; NaN if a score is not finite.

    Without NaN a diverged head would look like one that always predicts class 0.
    """

    def of_row(row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        scores = head_scores(heads, row[0][None])[0]  # [H, C]
        return scores.argmax(axis=1) == row[1], jnp.isfinite(scores).all(axis=1)

    right, finite = jax.lax.map(of_row, (features, labels), batch_size=256)
    hits = right.sum(axis=0).astype(features.dtype)
    return jnp.where(finite.all(axis=0), hits, jnp.nan)


def _total_loss(
    groups: tuple[Heads, ...], features: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The sum of the losses, whose gradient for a head depends on that head alone."""

    def losses(group: Heads) -> jax.Array:
        scores = head_scores(group, features)
        of_rows = optax.softmax_cross_entropy_with_integer_labels(
            scores, jnp.broadcast_to(labels[:, None], scores.shape[:2])
        )
        return of_rows.mean(axis=0)

    each = jnp.concatenate([losses(group) for group in groups])
    return each.sum(), each


def _move(
    tx: optax.GradientTransformation,
    head: Heads,
    gradient: Heads,
    opt_state: Any,
    rate: jax.Array,
) -> tuple[Heads, Any]:
    # The learning rate is the last factor in every optimiser: a rate for each head is a
    # factor on the update at rate 1.
    updates, opt_state = tx.update(gradient, opt_state, head)
    return optax.apply_updates(
        head, jax.tree.map(lambda u: rate * u, updates)
    ), opt_state


def _schedule(protocol: Protocol, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate by step, relative to the first."""
    if protocol.schedule == "constant":
        return optax.constant_schedule(1.0)
    if protocol.schedule == "steps":
        epochs = [max(round(m * protocol.epochs), 1) for m in protocol.milestones]
        factors = {epoch: 0.1 ** (i + 1) for i, epoch in enumerate(sorted(epochs))}
        return schedules.step_table(1.0, factors, steps_per_epoch=steps_per_epoch)
    return schedules.cosine(
        1.0,
        protocol.final_share,
        epochs=protocol.epochs,
        steps_per_epoch=steps_per_epoch,
    )


def _transformation(
    protocol: Protocol, rate: optax.Schedule, weight_decay: float
) -> optax.GradientTransformation:
    momentum = protocol.momentum
    if protocol.optimizer == "adam":
        return optimizers.adam(rate, b1=momentum, weight_decay=weight_decay)
    make = optimizers.sgd if protocol.optimizer == "sgd" else optimizers.larc_sgd
    return make(rate, momentum=momentum, weight_decay=weight_decay)
