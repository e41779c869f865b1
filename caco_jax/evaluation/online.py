"""What a run says of its features while it trains, under names that say so.

These figures are of part of the images and of probes cut short: they show whether a
run goes well, and are not the protocols' figures of a finished one.
"""

import numpy as np
from jaxtyping import Array, Float, Int

from caco_jax.evaluation import health, linear

MAX_ITERATIONS = 50  # of the probe: enough to follow a run by
RANK_ROWS = 2048  # rows whose rank is looked at, at most


def online_metrics(
    train_features: Float[Array, "m f"],
    train_labels: Int[Array, " m"],
    test_features: Float[Array, "b f"],
    test_labels: Int[Array, " b"],
    *,
    num_classes: int,
) -> dict[str, float | None]:
    """A linear head's accuracy and the rank of the features.

    The head is fitted to the features as they are now, from zero: its gradient ends at
    them, and the figures follow from the network alone, so that an interrupted run has
    the same.

    Args:
        train_features: [M, F] that the head learns from.
        train_labels: [M] their classes.
        test_features: [B, F] held out.
        test_labels: [B].
        num_classes: C, at least 2.

    Returns:
        "online_linear", a fraction, None where the rows are of one class;
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
