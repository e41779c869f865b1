"""Plain and UEL, the methods of the CLAE paper beside SimCLR.

References:
    Ho and Vasconcelos 2020, arXiv:2010.12050; UEL is from Ye et al. 2019,
    arXiv:1904.03436.
"""

import dataclasses
import functools

from caco_jax.losses.contrast import plain_loss, uel_loss
from caco_jax.methods.method import Method
from caco_jax.methods.two_view import two_view
from caco_jax.schema import COUNT, POSITIVE, setting, validate


@dataclasses.dataclass(frozen=True)
class PlainConfig:
    """Settings of Plain."""

    temperature: float = setting(0.1, allowed=POSITIVE, doc="Softmax temperature.")

    def __post_init__(self) -> None:
        validate(self)


@dataclasses.dataclass(frozen=True)
class UelConfig:
    """Settings of UEL."""

    temperature: float = setting(0.1, allowed=POSITIVE, doc="Softmax temperature.")
    negative_margin: float = setting(
        1.0, allowed=COUNT, doc="Weight of the negatives, at least 1."
    )

    def __post_init__(self) -> None:
        validate(self)


def make_plain(config: PlainConfig, *, embedding_dim: int) -> Method:
    """Plain as pure functions: InfoNCE of the first views over the second views."""
    del embedding_dim
    return two_view(
        "plain",
        "Plain: InfoNCE of first views over the batch's second views",
        functools.partial(plain_loss, temperature=config.temperature),
        candidates=lambda batch_size: batch_size,
    )


def make_uel(config: UelConfig, *, embedding_dim: int) -> Method:
    """UEL as pure functions: instance classification of two views."""
    del embedding_dim
    return two_view(
        "uel",
        "UEL: each image of the batch is a class of its own",
        functools.partial(
            uel_loss,
            temperature=config.temperature,
            negative_margin=config.negative_margin,
        ),
    )
