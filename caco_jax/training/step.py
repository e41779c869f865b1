"""The training step of all methods: each player moves by the gradient of its payoff."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from caco_jax.methods.method import Context, Encode, Method, Move, Network, View
from caco_jax.optim.optimizers import ascend, ema_update
from caco_jax.training.encode import shuffle_rows
from caco_jax.training.state import TrainState

Metrics = dict[str, Array]
MakeViews = Callable[[PRNGKeyArray, Array], Sequence[Array]]
StepFn = Callable[[TrainState, Any], tuple[TrainState, Metrics]]
GRADIENT_NORM = "gradient_norm_"  # before a player's name, in the metrics
# Folded into a step's key to shuffle the rows of the target encoder.
_SHUFFLE = 2**32 - 1


def make_train_step(
    method: Method,
    *,
    encode: Encode,
    make_views: MakeViews,
    optimizer: optax.GradientTransformation,
    target_momentum: Callable[[Int[Array, ""]], Float[Array, ""]],
    key: PRNGKeyArray,
    shuffle_keys: bool = False,
) -> StepFn:
    """One step of one method, a pure function for the caller to jit.

    The order is: views from ``fold_in(key, step)``; the target encoder moves toward the
    online encoder as it was before this step; the gradient of the payoff with respect
    to all players at once; the update of every player; the method's `advance`.

    Args:
        method: the method.
        encode: function from views to embeddings, see `make_encode`.
        make_views: (key, images) -> the views, normalised floats.
        optimizer: the optimiser of all players, see `make_optimizer`.
        target_momentum: step -> m of the target's exponential moving average.
        key: all random numbers of the run follow from it and the step number.
        shuffle_keys: whether the target encoder gets its rows in a random order, see
            `shuffle_rows`.

    Returns:
        (state, images) -> (state, metrics), metrics with "loss", the method's own, and
        "gradient_norm_PLAYER", the global norm of the payoff's gradient with respect to
        each player that moves, as it is before the optimiser changes it.
    """

    def train_step(state: TrainState, images: Any) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)
        with jax.named_scope("views"):
            views = [View(view) for view in make_views(step_key, images)]
        target = state.target
        if target is not None:
            params = ema_update(
                target.params,
                state.players["encoder"],
                momentum=target_momentum(state.step),
            )
            target = Network(params, target.stats)
        target_encode = encode.target
        if shuffle_keys:
            # Row numbers give the keys of the views; the largest number is no row.
            order_key = jax.random.fold_in(step_key, _SHUFFLE)
            target_encode = shuffle_rows(target_encode, order_key)
        encode_now = Encode(encode.online, target_encode)
        context = Context(state.stats, target, state.extra, encode_now)

        (loss, outcome), gradients = jax.value_and_grad(
            jax.named_scope("payoff")(
                lambda players: method.payoff(players, context, views)
            ),
            has_aux=True,
        )(state.players)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(
                gradients, state.opt_state, state.players
            )
            players = optax.apply_updates(state.players, updates)
        players, extra = method.advance(players, state.extra, outcome)
        state = TrainState(
            state.step + 1, players, outcome.stats, outcome.target, extra, opt_state
        )
        norms = {
            f"{GRADIENT_NORM}{name}": optax.tree.norm(gradients[name])
            for name, move in method.moves.items()
            if move != "hold"
        }
        return state, {"loss": loss, **norms, **outcome.metrics}

    return train_step


def make_optimizer(
    method: Method, transformations: dict[str, optax.GradientTransformation]
) -> optax.GradientTransformation:
    """All players' optimisers as one, each with its direction.

    Args:
        method: states the players and how each moves.
        transformations: a descending optimiser for each player that moves, by name.

    Raises:
        ValueError: the names are not those of the players that move.
    """
    moving = {name for name, move in method.moves.items() if move != "hold"}
    if set(transformations) != moving:
        raise ValueError(
            f"{method.name}: expected optimisers for {sorted(moving)}, "
            f"got {sorted(transformations)}"
        )
    directed = {
        name: _directed(move, transformations.get(name))
        for name, move in method.moves.items()
    }
    return optax.partition(directed, {name: name for name in method.moves})


def _directed(
    move: Move, transformation: optax.GradientTransformation | None
) -> optax.GradientTransformation:
    if transformation is None:
        return optax.set_to_zero()
    return ascend(transformation) if move == "ascend" else transformation
