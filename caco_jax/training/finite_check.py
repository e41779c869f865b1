"""Detection of NaN and infinite values: stop the run or undo the step."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from numpy import ndarray

from caco_jax.training.state import PyTree, TrainState
from caco_jax.training.step import GRADIENT_NORM, Metrics, StepFn


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether a tree of arrays has no NaN and no infinity."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.stack([jnp.asarray(True), *leaves]).all()


def _judged(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that must be finite.

    Not the gradients' norms: an optimiser may leave such a gradient out, and a sum of
    squares overflows before the gradient does.
    """
    return {
        name: values
        for name, values in metrics.items()
        if not name.startswith(GRADIENT_NORM)
    }


def check_step(train_step: StepFn, *, skip: bool = False) -> StepFn:
    """A training step that checks its result for NaN and infinity and may undo itself.

    The loss is computed before the update: without this check an update to infinity in
    the last step would be saved.

    Args:
        train_step: any step.
        skip: whether to undo a step with a result that is not finite; the step is
            counted. Old and new state are then in memory together.

    Returns:
        The step. Its metrics have "finite", a boolean for each player and for
        BatchNorm's statistics, and with `skip` also "skipped", 1 if the step was
        undone.
    """

    def guarded(state: TrainState, images: Any) -> tuple[TrainState, Metrics]:
        moved, metrics = train_step(state, images)
        arrays = {**moved.players, "BatchNorm statistics": moved.stats}
        finite = {name: all_finite(tree) for name, tree in arrays.items()}
        guarded_metrics: Any = {**metrics, "finite": finite}
        if not skip:
            return moved, guarded_metrics
        good = all_finite(_judged(metrics)) & jnp.stack([*finite.values()]).all()
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, state)
        guarded_metrics["skipped"] = 1 - good.astype(jnp.int32)
        return kept._replace(step=moved.step), guarded_metrics

    return guarded


class NonFiniteError(FloatingPointError):
    """A metric or a player became NaN or infinite.

    Attributes:
        step: the first step with such a value.
        metric: the first such metric of that step by name, or None.
        players: whose arrays are not finite after that step.
        kept_step: step of the newest checkpoint, None without one.
    """

    def __init__(
        self,
        step: int,
        metric: str | None,
        value: float,
        *,
        players: Sequence[str] = (),
        phase: str = "step",
    ) -> None:
        super().__init__(step, metric, value)
        self.step, self.metric, self.players = step, metric, tuple(players)
        self.kept_step: int | None = None
        whose = f"{', '.join(players)} no longer finite"
        what = [f"{metric} is {value}"] * (metric is not None) + [whose] * bool(players)
        self._trouble = f"{phase} {step}: {'; '.join(what)}"

    def __str__(self) -> str:
        kept = f"the checkpoint of step {self.kept_step} is kept"
        if self.kept_step is None:
            kept = "nothing was saved yet"
        return (
            f"{self._trouble}; {kept}. Lower the learning rate or raise the temperature"
        )


def check_finite(
    first_step: int,
    metrics: Mapping[str, Float[ndarray, " s"]],
    finite: Mapping[str, Bool[ndarray, " s"]] | None = None,
    *,
    phase: str = "step",
) -> None:
    """Raises NonFiniteError at the first step with a bad value.

    Args:
        first_step: step of the first value.
        metrics: values of consecutive steps, by metric; norms of gradients may be
            infinite.
        finite: whether each player was finite after each step, by player.
        phase: what the message calls a step.
    """
    finite, metrics = finite or {}, _judged(metrics)
    rows = [*metrics.values(), *finite.values()]
    for offset in range(max(map(len, rows), default=0)):
        bad = [
            (name, float(values[offset]))
            for name, values in sorted(metrics.items())
            if len(values) > offset and not math.isfinite(values[offset])
        ]
        players = [name for name, good in sorted(finite.items()) if not good[offset]]
        if bad or players:
            name, value = bad[0] if bad else (None, math.nan)
            step = first_step + offset
            raise NonFiniteError(step, name, value, players=players, phase=phase)
