"""How evaluations are done, as plain settings: flags know them without JAX."""

import dataclasses

from caco_jax.schema import (
    BELOW_ONE,
    COUNT,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    require,
    setting,
    validate,
)

# On the pixels of scikit-learn's digits (a stratified quarter held out, seed 0) this
# gives 96.2 %, and what `choose_l2` takes, 1e-3, gives 97.1 %.
L2 = 1e-4
L2_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
HELD_OUT = 0.1  # share of the training images that protocols are chosen by


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How heads are trained on a frozen backbone; the defaults are CaCo's."""

    optimizer: str = setting(
        "larc", allowed=("sgd", "larc", "adam"), doc="of the heads"
    )
    learning_rates: tuple[float, ...] = setting(
        (0.4,), allowed=POSITIVE, doc="to try; for the protocol's batch size"
    )
    weight_decays: tuple[float, ...] = setting(
        (0.0,), allowed=NON_NEGATIVE, doc="to try with each of the rates"
    )
    momentum: float = setting(
        0.9, allowed=BELOW_ONE, doc="heavy ball; adam: first moment's"
    )
    batch_size: int = setting(4096, allowed=COUNT, doc="images a step")
    epochs: int = setting(100, allowed=COUNT, doc="of training")
    schedule: str = setting(
        "cosine", allowed=("cosine", "steps", "constant"), doc="of the rate, by epochs"
    )
    final_share: float = setting(
        0.0, allowed=FRACTION, doc="of the rate that is left at the end of the cosine"
    )
    milestones: tuple[float, ...] = setting(
        (0.6, 0.8),
        allowed=BELOW_ONE,
        doc="shares of the epochs, each a tenth of a rate",
    )
    augment: bool = setting(
        True, doc="random crops and flips, anew each epoch; false: clean images"
    )

    def __post_init__(self) -> None:
        validate(self)
        for name in ("learning_rates", "weight_decays"):
            values = getattr(self, name)
            require(
                0 < len(values) == len(set(values)),
                f"{name}: expected different numbers, at least one, got {values}",
            )


PRESETS = {
    # He et al. 2020, arXiv:1911.05722, section 4.1, and its released code.
    "moco": Protocol("sgd", (30.0,), batch_size=256, schedule="steps"),
    # Hu et al. 2021, arXiv:2011.08435; its released code ends at a rate of 0.01.
    "adco": Protocol("sgd", (10.0,), batch_size=256, final_share=0.001),
    # Wang et al. 2022, arXiv:2203.14370; its released code: 0.025 for 256 images.
    "caco": Protocol(),
    # Ho and Vasconcelos 2020, arXiv:2010.12050: a logistic head on clean features.
    # The batch is its pretraining's.
    "clae": Protocol(
        "adam",
        (3e-4,),
        batch_size=256,
        epochs=1000,
        schedule="constant",
        augment=False,
    ),
}


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """How a network is trained on with labels, by SGD and a cosine to zero."""

    backbone_rate: float = setting(0.01, allowed=NON_NEGATIVE, doc="learning rate")
    head_rate: float = setting(0.2, allowed=POSITIVE, doc="learning rate")
    layer_decay: float = setting(
        1.0,
        allowed=FRACTION,
        doc="of a ViT: each block's rate is so much of that of the block behind it",
    )
    momentum: float = setting(0.9, allowed=BELOW_ONE, doc="heavy ball")
    weight_decay: float = setting(0.0, allowed=NON_NEGATIVE, doc="L2, of all weights")
    batch_size: int = setting(256, allowed=COUNT, doc="images a step, at most")
    epochs: int = setting(20, allowed=COUNT, doc="of training")
    frozen: tuple[str, ...] = setting(
        (),
        doc="layers that stay as they are: conv1, bn1, layer1 to layer4; of a ViT "
        "patches, blocks_0, ...",
    )
    frozen_statistics: bool = setting(
        False, doc="whether BatchNorm uses its running statistics and keeps them"
    )

    def __post_init__(self) -> None:
        validate(self)
