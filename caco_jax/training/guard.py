"""What happens to a step whose numbers are no longer finite."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from caco_jax.training.state import PyTree, TrainState
from caco_jax.training.step import Metrics, StepFn


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether a tree of arrays has no NaN and no infinity."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.stack([jnp.asarray(True), *leaves]).all()


def guard(train_step: StepFn, *, skip: bool = False) -> StepFn:
    """A step that says what it did to each player, and may undo itself.

    Metrics are of before the players' moves: without these, a last move to infinity
    would be saved as good.

    Args:
        train_step: any step.
        skip: undo a step that ends in anything not finite, but for its being counted.
            Old and new state are then held at once.

    Returns:
        The step. Its metrics have "finite", a boolean by player and one of BatchNorm's
        statistics, and with `skip` "skipped", 1 where the step was undone.
    """

    def guarded(state: TrainState, images: Any) -> tuple[TrainState, Metrics]:
        moved, metrics = train_step(state, images)
        arrays = {**moved.players, "BatchNorm statistics": moved.stats}
        finite = {name: all_finite(tree) for name, tree in arrays.items()}
        guarded_metrics: Any = {**metrics, "finite": finite}
        if not skip:
            return moved, guarded_metrics
        good = all_finite(metrics) & jnp.stack([*finite.values()]).all()
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, state)
        guarded_metrics["skipped"] = 1 - good.astype(jnp.int32)
        return kept._replace(step=moved.step), guarded_metrics

    return guarded
