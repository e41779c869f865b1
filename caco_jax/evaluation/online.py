"""Online evaluation during pretraining: a linear head and the effective rank.

It uses a part of the images and few iterations: it shows whether a run makes progress,
and does not replace the evaluation of a finished run.
"""

import numpy as np
from jaxtyping import Array, Float, Int

from caco_jax.evaluation import health, linear

MAX_ITERATIONS = 50  # iterations of the probe: enough to follow a run
RANK_ROWS = 2048  # largest number of rows for the rank


def online_metrics(
    train_features: Float[Array, "m f"],
    train_labels: Int[Array, " m"],
    test_features: Float[Array, "b f"],
    test_labels: Int[Array, " b"],
    *,
    num_classes: int,
) -> dict[str, float | None]:
    """A linear head's accuracy and the rank of the features.

    The head is fitted to the present features, from zero, and its gradient does not
    reach the encoder. The result follows from the network alone, so that an interrupted
    run has the same.

    Args:
        train_features: [M, F] training features of the head.
        train_labels: [M] their classes.
        test_features: [B, F] held out.
        test_labels: [B].
        num_classes: C, at least 2.

    Returns:
        "online_linear", a fraction, None if all rows are of one class;
        "online_effective_rank", see `health.effective_rank`.

    Raises:
        ValueError: the arrays do not fit or are not finite.
    """
    accuracy = None
    if len(np.unique(np.asarray(train_labels))) > 1:
        model = linear.fit_logistic_regression(
            train_features,
            train_labels,
            num_classes=num_classes,
            max_iterations=MAX_ITERATIONS,
        )
        accuracy = linear.accuracy(model, test_features, test_labels)
    rank = health.effective_rank(test_features[:RANK_ROWS])
    return {"online_linear": accuracy, "online_effective_rank": rank}
