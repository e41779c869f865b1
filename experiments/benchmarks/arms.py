"""The arms of the tournament: each is a method with four settings to try."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from caco_jax import Pretraining, methods
from caco_jax.data.dataset import ArrayDataset
from caco_jax.data.views import small_gray
from caco_jax.losses.contrast import l2_normalize
from caco_jax.methods.start_up import BANK_OPTIMIZER
from caco_jax.nets.norm import BatchNorm
from caco_jax.nets.resnet import resnet8
from caco_jax.optim.settings import OptimizerConfig, TargetConfig

VIEW_PIXELS = 16  # of 28: 3x3 convolutions of 8x8 pixels are fast on a CPU
WIDTH = 16
PROJECTOR = (128, 128, 64)
BATCH_SIZE = 128
MEMORY = 4096  # entries of a bank or a queue: 6.8 % of 60,000 images
# Settings of a trial that are not the method's own, with their defaults.
COMMON: Mapping[str, Any] = {"rate": 0.06, "target_momentum": 0.99, "epsilon": 0.0}
OF_THE_BANK = ("bank_rate", "bank_decay")

Setting = Mapping[str, Any]


class Arm(NamedTuple):
    """A method in the tournament.

    Attributes:
        method: its name in the registry.
        fixed: settings that make the arm what it is.
        trials: settings to choose from, the same number for every arm.
        host: the arm whose chosen settings this one starts from, if any; "best bank"
            for the best one of `BANKS` in the trials.
    """

    method: str
    fixed: Setting
    trials: tuple[Setting, ...]
    host: str | None = None


_QUEUE = {"queue_size": MEMORY, "symmetric": True}
_ADCO = {"bank_size": MEMORY, "symmetric": True}
_CACO = {"bank_size": MEMORY, "start_up_momentum": 0.99}
_QUEUE_TRIALS: tuple[Setting, ...] = (
    {"temperature": 0.1},
    {"temperature": 0.2},
    {"temperature": 0.2, "rate": 0.12},
    {"temperature": 0.2, "target_momentum": 0.95},
)
# A bank that is full after 32 steps holds keys of an untrained encoder, in a narrow
# cone, and no query is near them later: hence start-up phases of a whole epoch.
_CACO_TRIALS: tuple[Setting, ...] = (
    {"temperature": 0.1, "bank_temperature": 0.1},  # filled as published
    {"temperature": 0.1, "bank_temperature": 0.1, "start_up_epochs": 1},
    {"temperature": 0.2, "bank_temperature": 0.2, "start_up_epochs": 1},
    {
        "temperature": 0.1,
        "bank_temperature": 0.1,
        "start_up_epochs": 1,
        "bank_rate": 0.5,
    },
)
_EPSILONS: tuple[Setting, ...] = tuple(
    {"epsilon": epsilon} for epsilon in (0.01, 0.03, 0.06, 0.12)
)

BANKS = ("adco", "caco")
BEST_BANK = "best bank"
ARMS: dict[str, Arm] = {
    "simclr": Arm(
        "simclr",
        {},
        (
            {"temperature": 0.1},
            {"temperature": 0.2},
            {"temperature": 0.5},
            {"temperature": 0.2, "rate": 0.12},
        ),
    ),
    "moco": Arm("moco", _QUEUE, _QUEUE_TRIALS),
    "moco, batch keys": Arm("moco", {**_QUEUE, "batch_keys": True}, _QUEUE_TRIALS),
    "adco": Arm(
        "adco",
        _ADCO,
        (
            # As published, but for the number of entries.
            {"temperature": 0.12, "bank_temperature": 0.02, "bank_decay": 1e-4},
            {
                "temperature": 0.1,
                "bank_temperature": 0.1,
                "start_up_epochs": 1,
                "bank_rate": 0.5,
            },
            {"temperature": 0.1, "bank_temperature": 0.1, "start_up_epochs": 1},
            {
                "temperature": 0.2,
                "bank_temperature": 0.1,
                "start_up_epochs": 1,
                "bank_rate": 0.5,
            },
        ),
    ),
    "adco, frozen bank": Arm(
        "adco",
        {**_ADCO, "bank_rate": 0.0},
        (
            {"temperature": 0.1},
            {"temperature": 0.1, "start_up_epochs": 1},
            {"temperature": 0.2, "start_up_epochs": 1},
            {"temperature": 0.1, "start_up_epochs": 1, "rate": 0.12},
        ),
    ),
    "caco": Arm("caco", _CACO, _CACO_TRIALS),
    "caco, positives only": Arm(
        "caco", {**_CACO, "bank_roles": "positives"}, _CACO_TRIALS
    ),
    "caco, negatives only": Arm(
        "caco", {**_CACO, "bank_roles": "negatives"}, _CACO_TRIALS
    ),
    "alpha_cl": Arm(
        "alpha_cl",
        {"importance": "exponential", "normalisation": "rows"},
        (
            {"temperature": 0.1},
            {"temperature": 0.2},
            {"temperature": 0.5},
            {"temperature": 0.2, "rate": 0.12},
        ),
    ),
    "simclr + clae": Arm("simclr", {}, _EPSILONS, host="simclr"),
    "bank + clae": Arm("", {}, _EPSILONS, host=BEST_BANK),
}

# A bank's chosen settings with one change that might improve it.
_CHANGES: dict[str, Setting] = {
    "one degree a step": {"bank_degrees": 1.0},
    "a quarter of the entries": {"bank_size": MEMORY // 4},
    "target momentum 0.95": {"target_momentum": 0.95},
}
_CHANGES_OF: dict[str, dict[str, Setting]] = {
    "adco": {
        **_CHANGES,
        "start-up of one epoch": {"start_up_epochs": 1},
        "no decay": {"bank_decay": 0.0},
        "equal temperatures": {"bank_temperature": 0.12},
        "own entries only": {"batch_keys": False},
    },
    "caco": _CHANGES,
}
TRIES: dict[str, Arm] = {
    f"{host}, {what}": Arm(host, change, ({},), host=host)
    for host, changes in _CHANGES_OF.items()
    for what, change in changes.items()
}


def build(
    method: str, setting: Setting, *, data: ArrayDataset, epochs: int, seed: int
) -> Pretraining:
    """The run of an arm; all are equal but for the method and the setting.

    A start-up of whole epochs counts among the epochs.

    Args:
        method: its name in the registry.
        setting: settings of the method, with keys of `COMMON` and `OF_THE_BANK`.
        data: the data set.
        epochs: the budget.
        seed: seed of the run.
    """
    own = dict(setting)
    common = {name: own.pop(name, value) for name, value in COMMON.items()}
    rates = {name: own.pop(name) for name in OF_THE_BANK if name in own}
    degrees = own.pop("bank_degrees", None)
    players = getattr(methods, method)(**own)
    if common["epsilon"]:
        players = methods.adversarial(players, epsilon=common["epsilon"])
    norm = functools.partial(BatchNorm, adversarial_branch=common["epsilon"] > 0)
    optimizers = {"encoder": OptimizerConfig(learning_rate=common["rate"])}
    if "bank_size" in own:
        optimizers["bank"] = OptimizerConfig(
            learning_rate=rates.get("bank_rate", BANK_OPTIMIZER.learning_rate),
            weight_decay=rates.get("bank_decay", 0.0),
            schedule=BANK_OPTIMIZER.schedule,
        )
    return Pretraining(
        method=players,
        encoder=resnet8(width=WIDTH, norm=norm),
        projector=PROJECTOR,
        views=small_gray(size_pixels=VIEW_PIXELS),
        data=data,
        optimizers={**optimizers, **_turning(degrees)},
        batch_size=BATCH_SIZE,
        epochs=epochs - own.get("start_up_epochs", 0),
        seed=seed,
        target=TargetConfig(momentum=common["target_momentum"], schedule="constant"),
    )


def _turning(degrees: float | None) -> dict[str, optax.GradientTransformation]:
    """A bank optimiser that turns every row by a fixed angle, if the setting asks."""
    return {} if degrees is None else {"bank": turn_rows(degrees)}


def turn_rows(degrees: float, *, momentum: float = 0.9) -> optax.GradientTransformation:
    """A scale-free optimiser of rows of length 1, with one angle for each step.

    Each row turns against its mean gradient of the newest steps, however small that is.

    Args:
        degrees: the angle.
        momentum: momentum of the average of the gradients.
    """
    angle = math.radians(degrees)

    def turn(mean: Array, rows: Array) -> Array:
        unit = l2_normalize(rows)
        along = jnp.sum(mean * unit, axis=-1, keepdims=True)
        tangent = l2_normalize(along * unit - mean)
        return math.cos(angle) * unit + math.sin(angle) * tangent - rows

    def update(
        means: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        return jax.tree.map(turn, means, params), state

    turning = optax.GradientTransformation(lambda _: optax.EmptyState(), update)
    return optax.chain(optax.trace(momentum), turning)
