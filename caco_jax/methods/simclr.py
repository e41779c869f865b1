"""SimCLR: the other views of the batch are negatives; no target encoder, no queue.

References:
    Chen et al. 2020, arXiv:2002.05709.
"""

import dataclasses
import functools

from caco_jax.losses.contrast import nt_xent
from caco_jax.methods.method import Method
from caco_jax.methods.two_view import two_view
from caco_jax.schema import POSITIVE, setting, validate


@dataclasses.dataclass(frozen=True)
class SimclrConfig:
    """Settings of SimCLR."""

    temperature: float = setting(0.1, allowed=POSITIVE, doc="Softmax temperature.")

    def __post_init__(self) -> None:
        validate(self)


def make(config: SimclrConfig, *, embedding_dim: int) -> Method:
    """SimCLR as pure functions: the encoder descends NT-Xent of two views."""
    del embedding_dim
    return two_view(
        "simclr",
        f"SimCLR: NT-Xent over both views, temperature {config.temperature:g}",
        functools.partial(nt_xent, temperature=config.temperature),
        candidates=lambda batch_size: 2 * batch_size - 1,
    )
