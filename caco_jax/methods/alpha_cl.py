"""α-CL: the pair weights are chosen directly, and the encoder ascends the energy.

References:
    Tian 2022, arXiv:2201.12680.
"""

import dataclasses
import functools
from collections.abc import Callable

from caco_jax.losses import alpha_cl as losses
from caco_jax.losses.alpha import FAMILIES, Family, family_loss
from caco_jax.methods.method import Method
from caco_jax.methods.two_view import PairLoss, two_view
from caco_jax.schema import (
    COUNT,
    NON_NEGATIVE,
    POSITIVE,
    accepted,
    require,
    setting,
    validate,
)

INFO_NCE = "infonce"
NO_FAMILY = "none"
# What a loss of the family has no place for.
_WITHOUT_FAMILY = ("importance", "normalisation", "intra_weight", "constant_weights")


@dataclasses.dataclass(frozen=True)
class AlphaClConfig:
    """Settings of α-CL; an importance or normalisation uses some of them."""

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
        doc="Weight of a pair as a function of its distance; infonce takes the weights "
        "of the InfoNCE loss.",
    )
    normalisation: str = setting(
        "rows",
        allowed=("rows", "none", "samples", "low_rank"),
        doc="Normalisation of the pair weights; importance infonce has its own. "
        "Importance exponential with rows is α-CL-direct.",
    )
    power: float = setting(
        4.0,
        allowed=POSITIVE,
        doc="Power p of the distance d^p in importance exponential, inverse and "
        "quadratic.",
    )
    temperature: float = setting(
        0.5, allowed=POSITIVE, doc="Temperature of every importance except uniform."
    )
    inverse_exponent: float = setting(
        1.0,
        allowed=POSITIVE,
        doc="Exponent e of importance inverse, (d^p + temperature)^-e.",
    )
    row_epsilon: float = setting(
        0.0,
        allowed=NON_NEGATIVE,
        doc="Number added to the mean raw weight of a row in normalisation rows.",
    )
    rank: int = setting(
        8,
        allowed=COUNT,
        doc="Number of singular values that normalisation low_rank keeps.",
    )
    intra_weight: float = setting(
        0.0, allowed=NON_NEGATIVE, doc="Additional weight of the positive pairs."
    )
    constant_weights: bool = setting(
        True,
        doc="Whether pair weights are constants in the gradient. False differentiates "
        "them too.",
    )
    family: str = setting(
        NO_FAMILY,
        allowed=(NO_FAMILY, *FAMILIES),
        doc="Loss of the paper's table of φ and ψ, instead of chosen pair weights; it "
        "uses those of temperature, margin, epsilon and scale that it has.",
    )
    margin: float = setting(
        1.0,
        allowed=NON_NEGATIVE,
        doc="Margin of family triplet, soft_triplet and lifted_structured.",
    )
    epsilon: float = setting(
        1.0,
        allowed=NON_NEGATIVE,
        doc="Weight of the positive in the sum of family info_nce.",
    )
    scale: float = setting(
        1.0, allowed=POSITIVE, doc="Factor c of c x in family modified_triplet."
    )

    def __post_init__(self) -> None:
        validate(self)
        require(
            self.constant_weights or self.importance != INFO_NCE,
            f"constant_weights: expected True with importance {INFO_NCE!r}, whose loss "
            "states no weights, got False",
        )
        if self.family == NO_FAMILY:
            return
        fields = type(self).__dataclass_fields__
        for name in _WITHOUT_FAMILY:
            value, default = getattr(self, name), fields[name].default
            require(
                value == default,
                f"{name}: expected {default!r} with family {self.family!r}, which "
                f"reads none, got {value!r}",
            )


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
    """The configured function from squared distances to pair weights."""
    normalise: dict[str, Callable[[losses.Shape], losses.Importance]] = {
        "rows": functools.partial(losses.row_normalised, epsilon=config.row_epsilon),
        "none": losses.unnormalised,
        "samples": losses.per_sample,
        "low_rank": functools.partial(losses.low_rank, rank=config.rank),
    }
    return normalise[config.normalisation](_shapes(config)[config.importance]())


def family_of(config: AlphaClConfig) -> Family:
    """The member of the (φ, ψ) family that is configured."""
    make = FAMILIES[config.family]
    return make(**accepted(make, dataclasses.asdict(config)))


def _mean_family_loss(family: Family) -> PairLoss:
    """The mean of the member's loss over images; the paper has the sum."""
    return lambda z1, z2: family_loss(z1, z2, family) / z1.shape[0]


def pair_loss(config: AlphaClConfig) -> PairLoss:
    """The loss of two views' embeddings that the encoder descends."""
    if config.family != NO_FAMILY:
        return _mean_family_loss(family_of(config))
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
        constant_weights=config.constant_weights,
    )


def make(config: AlphaClConfig, *, embedding_dim: int) -> Method:
    """α-CL as pure functions: the encoder descends minus the energy of fixed weights.

    The pair weights are the min player's move, answered anew at every step from the
    distances as they are; no gradient flows through them, unless `constant_weights`
    is off. With `family` the encoder descends the mean over images of that loss, whose
    gradient is the energy's at the weights of the paper's theorem 1.
    """
    del embedding_dim
    what = f"{config.importance} pair weights, temperature {config.temperature:g}"
    if config.family != NO_FAMILY:
        what = f"the loss {family_of(config).name}"
    return two_view("alpha_cl", f"α-CL: {what}", pair_loss(config))
