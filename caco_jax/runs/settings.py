"""Settings of training and of the kNN monitor."""

import dataclasses

from caco_jax.schema import (
    COUNT,
    NON_NEGATIVE,
    POSITIVE,
    Range,
    setting,
    validate,
)

# Outputs that evaluation can use: features of the backbone, or the projector's output.
FEATURES = ("backbone", "embedding")
# How long the processes of a run wait for each other.
TIMEOUT_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length of training, batch size, checkpoints and memory."""

    batch_size: int = setting(
        256,
        allowed=Range(low=2),
        doc="Images in one training step, over all devices together.",
    )
    epochs: int = setting(
        200, allowed=COUNT, doc="Number of passes over the training images."
    )
    steps_per_dispatch: int | None = setting(
        None,
        allowed=COUNT,
        doc="Training steps in one call of the compiled program. None takes 16, or 1 "
        "on a CPU.",
    )
    microbatches: int = setting(
        1,
        allowed=COUNT,
        doc="Number of parts of the batch that are encoded one after the other to save "
        "memory; the contrastive loss sees the embeddings of the whole batch.",
    )
    shard_encoder: bool = setting(
        False,
        doc="Whether the encoders' parameters and optimiser states are sharded over "
        "the devices (FSDP) and not replicated.",
    )
    checkpoint_every_epochs: int = setting(
        10, allowed=COUNT, doc="Epochs from one checkpoint to the next."
    )
    keep_checkpoints: int = setting(
        2,
        allowed=COUNT,
        doc="Number of newest checkpoints that are kept, beside the one of the best "
        "kNN accuracy.",
    )
    save_attempts: int = setting(
        3,
        allowed=COUNT,
        doc="Number of failed saves in succession that end the run; a failed save is "
        "tried again after the next epoch.",
    )
    skip_nonfinite: int = setting(
        0,
        allowed=NON_NEGATIVE,
        doc="Number of steps with NaN or infinite values that are undone before the "
        "run ends. 0 ends the run at the first one; more than 0 keeps two copies "
        "of the state in memory.",
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The kNN monitor during pretraining and at its end."""

    knn_every_epochs: int = setting(
        10, allowed=COUNT, doc="Epochs from one kNN evaluation to the next."
    )
    knn_train_images: int = setting(
        50_000,
        allowed=COUNT,
        doc="Largest number of training images that neighbours are searched among; "
        "they are taken evenly from the whole set.",
    )
    knn_neighbours: int = setting(
        20, allowed=COUNT, doc="Number k of nearest neighbours that vote."
    )
    knn_temperature: float = setting(
        0.2,
        allowed=POSITIVE,
        doc="Temperature of the votes: a neighbour has weight exp(cosine similarity / "
        "temperature).",
    )
    features: str = setting(
        "backbone",
        allowed=FEATURES,
        doc="Features that are evaluated: backbone is the output of the backbone, "
        "embedding is the output of the projector, as in CLAE's published kNN.",
    )
    online_linear: bool = setting(
        False,
        doc="Whether each kNN evaluation also trains a linear classifier on frozen "
        "features and measures their effective rank (online_linear and "
        "online_effective_rank in the metrics).",
    )

    def __post_init__(self) -> None:
        validate(self)
