"""What goes wrong in contrastive pretraining without anybody noticing."""

import math
from collections.abc import Mapping

from jaxtyping import Float
from numpy import ndarray

COLLAPSED_STD = 0.05
CHANCE_MARGIN = 0.01
UNUSED_SHARE = 0.02
PATIENCE_EPOCHS = 10


class NonFiniteError(FloatingPointError):
    """A metric became NaN or infinite.

    Attributes:
        step: the first step with such a value.
        metric: its name.
    """

    def __init__(self, step: int, metric: str, value: float) -> None:
        super().__init__(
            f"step {step}: {metric} is {value}; the last good checkpoint is kept. "
            "Lower the learning rate or raise the temperature"
        )
        self.step, self.metric = step, metric


def check_finite(first_step: int, metrics: Mapping[str, Float[ndarray, " s"]]) -> None:
    """Raises NonFiniteError at the first step with a bad value.

    Args:
        first_step: step of the first value.
        metrics: values of consecutive steps, by metric.
    """
    bad = [
        (offset, name, float(value))
        for name, values in metrics.items()
        for offset, value in enumerate(values)
        if not math.isfinite(value)
    ]
    if bad:
        offset, name, value = min(bad)
        raise NonFiniteError(first_step + offset, name, value)


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
