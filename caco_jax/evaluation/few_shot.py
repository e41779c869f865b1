"""Few-shot accuracy: the linear probe on few labelled rows of each class."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from caco_jax.evaluation import checks, linear


class Spread(NamedTuple):
    """Mean and standard deviation over draws (not the standard error of the mean)."""

    mean: float
    std: float


def few_shot_accuracy(
    train_features: Float[Array, "m f"],
    train_labels: Int[Array, " m"],
    test_features: Float[Array, "b f"],
    test_labels: Int[Array, " b"],
    *,
    shots: int,
    seeds: Sequence[int],
    num_classes: int,
    l2: float = linear.L2,
) -> Float[np.ndarray, " s"]:
    """Test accuracy of the probe on `shots` labelled rows of each class, by seed.

    Features are standardised by the whole training set, which needs no label. The
    probe is `linear.fit_logistic_regression`'s; all draws are fitted at once.

    Args:
        train_features: [M, F] rows to draw from.
        train_labels: [M] their classes.
        test_features: [B, F] rows to classify.
        test_labels: [B] their classes.
        shots: number of labelled rows of each class.
        seeds: one seed for each draw; the same seed draws the same rows.
        num_classes: C, at least 2.
        l2: penalty of the probe.

    Returns:
        [S] fractions, in the order of the seeds.

    Raises:
        ValueError: the arrays do not fit, a class has fewer than `shots` rows, there
            is no seed, or `shots` or the penalty is out of range.
    """
    train, labels = checks.labelled(
        train_features, train_labels, num_classes=num_classes
    )
    test, wanted = checks.labelled(test_features, test_labels, num_classes=num_classes)
    checks.check_same_width(train, test)
    linear.check_penalties(l2)
    if not len(seeds):
        raise ValueError("seeds: expected at least one")
    rows = np.stack(
        [
            draw_shots(train_labels, shots=shots, seed=seed, num_classes=num_classes)
            for seed in seeds
        ]
    )  # [S, C·shots]
    mean, scale = linear.standardiser(train)
    shown, test = (linear.standardised(x, mean, scale) for x in (train, test))
    fits = jax.vmap(
        lambda values, classes: linear.minimise(
            values, classes, num_classes=num_classes, l2=l2
        )
    )(shown[rows], labels[rows])
    won = jax.vmap(linear.winners, in_axes=(0, 0, None))(*fits, test)  # [S, B]
    return np.mean(np.asarray(won == wanted[None]), axis=1)


def draw_shots(
    labels: Int[Array, " m"], *, shots: int, seed: int, num_classes: int
) -> Int[np.ndarray, " n"]:
    """Draws `shots` different rows of each class, by class.

    Raises:
        ValueError: `shots` is below 1, or a class has too few rows; all such classes
            are named with their counts.
    """
    if shots < 1:
        raise ValueError(f"shots: expected at least 1, got {shots}")
    known = np.asarray(labels)
    counts = np.bincount(known, minlength=num_classes)
    poor = {c: int(n) for c, n in enumerate(counts) if n < shots}
    if poor:
        listed = ", ".join(f"class {c} with {n}" for c, n in poor.items())
        raise ValueError(
            f"expected at least {shots} labelled rows of each class, got {listed}"
        )
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [
            rng.choice(np.flatnonzero(known == c), shots, replace=False)
            for c in range(num_classes)
        ]
    )


def spread(accuracies: Float[np.ndarray, " s"]) -> Spread:
    """Mean and population standard deviation over the draws."""
    return Spread(float(np.mean(accuracies)), float(np.std(accuracies)))
