"""Settings of a run that concern neither its network nor its data."""

import dataclasses

from caco_jax.schema import (
    COUNT,
    NON_NEGATIVE,
    POSITIVE,
    Range,
    setting,
    validate,
)

# What of a network is judged. An embedding is what the loss sees.
FEATURES = ("backbone", "embedding")
# How long the processes of a run wait for each other.
TIMEOUT_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, how much at a time, and what is kept."""

    batch_size: int = setting(256, allowed=Range(low=2), doc="images a step")
    epochs: int = setting(200, allowed=COUNT, doc="passes over the training images")
    steps_per_dispatch: int | None = setting(
        None,
        allowed=COUNT,
        doc="steps run without a return to Python; None: 16, on a CPU 1",
    )
    microbatches: int = setting(
        1,
        allowed=COUNT,
        doc="parts of the batch that are encoded one after the other, contrasted once",
    )
    shard_encoder: bool = setting(
        False,
        doc="spread the encoders' parameters and optimiser state over the devices",
    )
    checkpoint_every_epochs: int = setting(10, allowed=COUNT, doc="epochs")
    keep_checkpoints: int = setting(
        2, allowed=COUNT, doc="newest ones kept, beside the best by kNN"
    )
    save_attempts: int = setting(
        3,
        allowed=COUNT,
        doc="failed saves in a row that end the run; each is tried again an epoch on",
    )
    skip_nonfinite: int = setting(
        0,
        allowed=NON_NEGATIVE,
        doc="steps of a run that may be NaN or infinite and are undone; 0: the first "
        "one ends the run; the others hold the state twice",
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The kNN monitor during pretraining and at its end."""

    knn_every_epochs: int = setting(10, allowed=COUNT, doc="epochs")
    knn_train_images: int = setting(
        50_000,
        allowed=COUNT,
        doc="training images to find neighbours among, at most; spread over the set",
    )
    knn_neighbours: int = setting(20, allowed=COUNT, doc="k")
    knn_temperature: float = setting(
        0.2, allowed=POSITIVE, doc="a vote weighs exp(cosine / temperature)"
    )
    features: str = setting(
        "backbone",
        allowed=FEATURES,
        doc="what is judged; embedding: the output of the projector, as CLAE's "
        "published kNN has it",
    )
    online_linear: bool = setting(
        False,
        doc="with kNN also a linear head and the features' rank, as online_linear and "
        "online_effective_rank; no gradient of it reaches the encoder",
    )

    def __post_init__(self) -> None:
        validate(self)
