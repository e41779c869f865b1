"""Settings of evaluation protocols; they import no JAX, so that flags are read fast."""

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
HELD_OUT = 0.1  # share of the training images that settings are chosen on


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Training of linear heads on a frozen backbone; the defaults are CaCo's."""

    optimizer: str = setting(
        "larc", allowed=("sgd", "larc", "adam"), doc="Optimiser of the linear heads."
    )
    learning_rates: tuple[float, ...] = setting(
        (0.4,),
        allowed=POSITIVE,
        doc="Learning rates to try, each for the batch size of the protocol.",
    )
    weight_decays: tuple[float, ...] = setting(
        (0.0,),
        allowed=NON_NEGATIVE,
        doc="Weight decays to try with each learning rate.",
    )
    momentum: float = setting(
        0.9,
        allowed=BELOW_ONE,
        doc="Momentum, or the decay of the first moment (beta1) of adam.",
    )
    batch_size: int = setting(4096, allowed=COUNT, doc="Images in one step.")
    epochs: int = setting(
        100, allowed=COUNT, doc="Number of passes over the training images."
    )
    schedule: str = setting(
        "cosine",
        allowed=("cosine", "steps", "constant"),
        doc="Learning-rate schedule, which changes once an epoch.",
    )
    final_share: float = setting(
        0.0,
        allowed=FRACTION,
        doc="Share of the learning rate that is left at the end of the cosine "
        "schedule.",
    )
    milestones: tuple[float, ...] = setting(
        (0.6, 0.8),
        allowed=BELOW_ONE,
        doc="Shares of the epochs after which the steps schedule divides the learning "
        "rate by 10.",
    )
    augment: bool = setting(
        True,
        doc="Whether heads train on new random crops and flips in each epoch and not "
        "on clean images.",
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
    """Fine-tuning of the network on labels, by SGD with a cosine schedule to 0."""

    backbone_rate: float = setting(
        0.01, allowed=NON_NEGATIVE, doc="Learning rate of the backbone."
    )
    head_rate: float = setting(
        0.2, allowed=POSITIVE, doc="Learning rate of the linear head."
    )
    layer_decay: float = setting(
        1.0,
        allowed=FRACTION,
        doc="Layer-wise learning-rate decay of a ViT: the learning rate of each block "
        "is multiplied by this once more than that of the next block.",
    )
    momentum: float = setting(0.9, allowed=BELOW_ONE, doc="Momentum of SGD.")
    weight_decay: float = setting(
        0.0, allowed=NON_NEGATIVE, doc="L2 penalty of all weights."
    )
    batch_size: int = setting(
        256, allowed=COUNT, doc="Largest number of images in one step."
    )
    epochs: int = setting(
        20, allowed=COUNT, doc="Number of passes over the training images."
    )
    frozen: tuple[str, ...] = setting(
        (),
        doc="Layers that are not trained: conv1, bn1, layer1 to layer4 of a ResNet, or "
        "patches, blocks_0, ... of a ViT.",
    )
    frozen_statistics: bool = setting(
        False,
        doc="Whether BatchNorm normalises with its running statistics and does not "
        "update them.",
    )

    def __post_init__(self) -> None:
        validate(self)
