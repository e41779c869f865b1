"""α-CL: the weight of every pair is chosen directly, the encoder ascends the energy.

References:
    Tian 2022, arXiv:2201.12680.
"""

import dataclasses
import functools
from collections.abc import Callable

from caco_jax.losses import alpha_cl as losses
from caco_jax.methods.method import Method
from caco_jax.methods.two_view import PairLoss, two_view
from caco_jax.schema import COUNT, NON_NEGATIVE, POSITIVE, setting, validate

INFO_NCE = "infonce"


@dataclasses.dataclass(frozen=True)
class AlphaClConfig:
    """Settings of α-CL; each importance and normalisation reads those it names."""

    importance: str = setting(
        "exponential",
        allowed=(
            "exponential",
            "inverse",
            "quadratic",
            "logistic",
            "uniform",
            INFO_NCE,
        ),
        doc="weight of a pair by its distance; infonce: the weights of that loss",
    )
    normalisation: str = setting(
        "rows",
        allowed=("rows", "none", "samples", "low_rank"),
        doc="of the weights; infonce has its own. exponential, rows: α-CL-direct",
    )
    power: float = setting(
        4.0, allowed=POSITIVE, doc="p of d^p: exponential, inverse, quadratic"
    )
    temperature: float = setting(0.5, allowed=POSITIVE, doc="all but uniform")
    inverse_exponent: float = setting(
        1.0, allowed=POSITIVE, doc="inverse: (d^p + temperature)^-this"
    )
    row_epsilon: float = setting(
        0.0, allowed=NON_NEGATIVE, doc="rows: added to the mean raw weight of a row"
    )
    rank: int = setting(8, allowed=COUNT, doc="low_rank: singular values kept")
    intra_weight: float = setting(
        0.0, allowed=NON_NEGATIVE, doc="extra weight of the positive pairs"
    )

    def __post_init__(self) -> None:
        validate(self)


def _shapes(config: AlphaClConfig) -> dict[str, Callable[[], losses.Shape]]:
    power, temperature = config.power, config.temperature
    return {
        "exponential": lambda: losses.exponential_shape(
            power=power, temperature=temperature
        ),
        "inverse": lambda: losses.inverse_shape(
            power=power, temperature=temperature, exponent=config.inverse_exponent
        ),
        "quadratic": lambda: losses.quadratic_shape(
            power=power, temperature=temperature
        ),
        "logistic": lambda: losses.logistic_shape(temperature=temperature),
        "uniform": losses.uniform_shape,
    }


def importance(config: AlphaClConfig) -> losses.Importance:
    """Squared distances -> pair weights, as configured."""
    normalise: dict[str, Callable[[losses.Shape], losses.Importance]] = {
        "rows": functools.partial(losses.row_normalised, epsilon=config.row_epsilon),
        "none": losses.unnormalised,
        "samples": losses.per_sample,
        "low_rank": functools.partial(losses.low_rank, rank=config.rank),
    }
    return normalise[config.normalisation](_shapes(config)[config.importance]())


def pair_loss(config: AlphaClConfig) -> PairLoss:
    """The loss of two views' embeddings that the encoder descends."""
    if config.importance == INFO_NCE:
        return functools.partial(
            losses.nt_xent_with_intra,
            temperature=config.temperature,
            intra_weight=config.intra_weight,
        )
    return functools.partial(
        losses.alpha_cl_loss,
        importance=importance(config),
        intra_weight=config.intra_weight,
    )


def make(config: AlphaClConfig, *, embedding_dim: int) -> Method:
    """α-CL as pure functions: the encoder descends minus the energy of fixed weights.

    The pair weights are the min player's move, answered anew at every step from the
    distances as they are; no gradient flows through them.
    """
    del embedding_dim
    return two_view(
        "alpha_cl",
        f"α-CL: {config.importance} pair weights, temperature {config.temperature:g}",
        pair_loss(config),
    )
