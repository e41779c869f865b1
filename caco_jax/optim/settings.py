"""Settings of an optimiser and of the target encoder, and the optax objects of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import optax

from caco_jax.optim import optimizers, schedules
from caco_jax.schema import (
    BELOW_ONE,
    COUNT,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    Conflicts,
    setting,
    validate,
)

OPTIMIZERS = ("sgd", "lars", "adam", "adamw")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """One player's optimiser and its learning-rate schedule."""

    name: str = setting(
        "sgd",
        allowed=OPTIMIZERS,
        doc="Optimiser: sgd with heavy-ball momentum, lars as in CaCo's released code, "
        "adam or adamw as in PyTorch.",
    )
    learning_rate: float = setting(
        0.03,
        allowed=NON_NEGATIVE,
        doc="Learning rate at the end of the warm-up. 0 keeps this player at its "
        "initial values; the encoder needs more than 0.",
    )
    scale_with_batch: bool = setting(
        False,
        doc="Whether learning rates are multiplied by batch size / 256 (the linear "
        "scaling rule).",
    )
    schedule: str = setting(
        "cosine",
        allowed=("cosine", "half_cosine", "constant", "steps"),
        doc="Learning-rate schedule after the warm-up: cosine decays to "
        "final_learning_rate, half_cosine is the first quarter of a cosine period and "
        "decays to 0 (AdCo's second schedule), steps follows milestones and "
        "milestone_factors, constant does not change.",
    )
    final_learning_rate: float = setting(
        0.0,
        allowed=NON_NEGATIVE,
        doc="Learning rate that the cosine schedule approaches at the end of training.",
    )
    milestones: tuple[int, ...] = setting(
        (),
        allowed=COUNT,
        doc="Epochs at which the steps schedule changes the learning rate.",
    )
    milestone_factors: tuple[float, ...] = setting(
        (),
        allowed=NON_NEGATIVE,
        doc="Factor of learning_rate from each milestone of the steps schedule on; "
        "factors are not multiplied with each other.",
    )
    warmup_epochs: int = setting(
        0,
        allowed=NON_NEGATIVE,
        doc="Epochs in which the learning rate grows linearly to learning_rate.",
    )
    momentum: float = setting(
        0.9,
        allowed=BELOW_ONE,
        doc="Momentum of sgd and lars, or the decay of the first moment (beta1) of "
        "adam and adamw.",
    )
    weight_decay: float = setting(
        1e-4,
        allowed=NON_NEGATIVE,
        doc="Weight decay, added to the gradient as an L2 penalty. In adamw it is "
        "decoupled and acts on weight matrices only.",
    )
    trust_coefficient: float = setting(
        0.001, allowed=POSITIVE, doc="Trust coefficient of lars."
    )

    def __post_init__(self) -> None:
        validate(self)
        with Conflicts() as found:
            found.require(
                len(self.milestones) == len(self.milestone_factors),
                f"milestone_factors: expected one for each of milestones "
                f"{self.milestones}, got {self.milestone_factors}",
            )
            rising = sorted(set(self.milestones)) == list(self.milestones)
            found.require(
                rising, f"milestones: expected rising epochs, got {self.milestones}"
            )
            found.require(
                not self.milestones or self.schedule == "steps",
                f"milestones: expected none with schedule {self.schedule!r}, "
                f"got {self.milestones}",
            )
            found.require(
                self.schedule not in ("steps", "half_cosine")
                or self.warmup_epochs == 0,
                f"warmup_epochs: expected 0 with schedule {self.schedule!r}, got "
                f"{self.warmup_epochs}",
            )
            found.require(
                self.schedule != "cosine"
                or self.final_learning_rate <= self.learning_rate,
                "final_learning_rate: expected at most learning_rate "
                f"({self.learning_rate:g}) with schedule 'cosine', got "
                f"{self.final_learning_rate:g}; change both, or take schedule "
                "'constant'",
            )

    def schedule_of(
        self, *, batch_size: int, epochs: int, steps_per_epoch: int
    ) -> optax.Schedule:
        """The learning rate: step -> value.

        Args:
            batch_size: examples in one step, over all devices together.
            epochs: number of epochs of the run.
            steps_per_epoch: steps that share one value.
        """
        rate = self.first_rate(batch_size)
        if self.schedule == "steps":
            factors = dict(zip(self.milestones, self.milestone_factors, strict=True))
            return schedules.step_table(rate, factors, steps_per_epoch=steps_per_epoch)
        if self.schedule == "half_cosine":
            return schedules.half_cosine(
                rate, epochs=epochs, steps_per_epoch=steps_per_epoch
            )
        final = self.final_learning_rate * self._scale(batch_size)
        return schedules.warmup_cosine(
            rate,
            final if self.schedule == "cosine" else rate,
            warmup_epochs=self.warmup_epochs,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
        )

    def first_rate(self, batch_size: int) -> float:
        """The learning rate at the end of the warm-up."""
        return self.learning_rate * self._scale(batch_size)

    def transformation(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """The descending optimiser with this schedule."""
        decay, momentum = self.weight_decay, self.momentum
        if self.name == "adam":
            return optimizers.adam(rate, b1=momentum, weight_decay=decay)
        if self.name == "adamw":
            return optimizers.adamw(rate, b1=momentum, weight_decay=decay)
        if self.name == "lars":
            return optimizers.lars(
                rate,
                momentum=momentum,
                weight_decay=decay,
                trust_coefficient=self.trust_coefficient,
            )
        return optimizers.sgd(rate, momentum=momentum, weight_decay=decay)

    def _scale(self, batch_size: int) -> float:
        """Factor of the learning rates: batch size / 256, or 1."""
        if not self.scale_with_batch:
            return 1.0
        return schedules.linear_scaled_rate(1.0, batch_size=batch_size)


@dataclasses.dataclass(frozen=True)
class TargetConfig:
    """The target encoder, an exponential moving average (EMA) of the online encoder."""

    momentum: float = setting(
        0.99,
        allowed=FRACTION,
        doc="Momentum of the moving average at the first step.",
    )
    schedule: str = setting(
        "cosine",
        allowed=("cosine", "constant"),
        doc="Schedule of the momentum: cosine grows to 1 until the end of training, "
        "constant does not change.",
    )
    shuffle_keys: bool = setting(
        False,
        doc="Whether the target encoder gets the batch in a random order, so that "
        "encoder.batchnorm_group forms other groups than in the online encoder "
        "(shuffle-BN of MoCo).",
    )

    def __post_init__(self) -> None:
        validate(self)

    def momentum_of(self, *, epochs: int, steps_per_epoch: int) -> optax.Schedule:
        """The target's momentum: step -> value."""
        if self.schedule == "constant":
            return optax.constant_schedule(self.momentum)
        return schedules.cosine_momentum(
            self.momentum, epochs=epochs, steps_per_epoch=steps_per_epoch
        )


def optimizer_key(player: str) -> str:
    """Name of the configuration section of a player's optimiser."""
    return "optimizer" if player == "encoder" else f"{player}_optimizer"


def check_optimizers(optimizers: Mapping[str, Any], *, epochs: int) -> None:
    """Checks the optimiser settings of a run, by player; optax objects are skipped.

    Raises:
        ConfigError: settings do not fit the player or the run.
    """
    with Conflicts() as found:
        for player, part in optimizers.items():
            if not isinstance(part, OptimizerConfig):
                continue
            key = optimizer_key(player)
            found.require(
                part.warmup_epochs <= epochs,
                f"{key}.warmup_epochs: expected at most training.epochs ({epochs}), "
                f"got {part.warmup_epochs}",
            )
            found.require(
                part.learning_rate > 0 or player != "encoder",
                f"{key}.learning_rate: expected a number in (0, inf), got 0; only the "
                "other players may stay as they are",
            )
