"""What goes wrong in contrastive pretraining without anybody noticing."""

import math
from collections.abc import Mapping, Sequence

from jaxtyping import Bool, Float
from numpy import ndarray

COLLAPSED_STD = 0.05
CHANCE_MARGIN = 0.01
UNUSED_SHARE = 0.02
PATIENCE_EPOCHS = 10


class NonFiniteError(FloatingPointError):
    """A metric or a player became NaN or infinite.

    Attributes:
        step: the first step with such a value.
        metric: the first such metric of that step by name, or None.
        players: whose arrays are not finite after that step.
        kept_step: of the checkpoint that is there, None without one.
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
        metrics: values of consecutive steps, by metric.
        finite: whether each player was finite after each step, by player.
        phase: what the message calls a step.
    """
    finite = finite or {}
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


def find_alarms(
    epoch: int, metrics: Mapping[str, float], *, candidates: int | None
) -> dict[str, str]:
    """Warnings about an epoch's mean metrics, by alarm name.

    Args:
        epoch: epochs done.
        metrics: the epoch's means.
        candidates: among which the cross entropy looks for the positive; an encoder
            that knows nothing is at its logarithm. None where the method has none.
    """
    alarms = {}
    if metrics.get("embedding_std", 1.0) < COLLAPSED_STD:
        alarms["collapsed"] = (
            f"the embeddings have collapsed: their scaled standard deviation is "
            f"{metrics['embedding_std']:.3f}, 1 is spread out, 0 a single point"
        )
    if epoch < PATIENCE_EPOCHS:
        return alarms
    entropy = metrics.get("cross_entropy")
    if entropy is not None and candidates is not None:
        chance = math.log(candidates)
        if abs(entropy - chance) < CHANCE_MARGIN * chance:
            alarms["at_chance"] = (
                f"the cross entropy sits at {entropy:.3f}, the logarithm of the number "
                f"of candidates ({chance:.3f}): nothing is being learned"
            )
    if metrics.get("bank_used_ever", 1.0) < UNUSED_SHARE:
        alarms["bank_unused"] = (
            f"only {metrics['bank_used_ever']:.1%} of the bank's entries were ever a "
            "positive: the bank is larger than it need be, or not learning"
        )
    return alarms
