"""The linear probe on frozen features: logistic regression to convergence.

This is the *offline* probe for features that fit into memory: no augmentation, no
learning rate to tune, one optimum. The published ImageNet accuracies are from another
protocol, 100 epochs of SGD under augmentation; do not compare the two.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from caco_jax.evaluation import checks
from caco_jax.evaluation.plans import L2, L2_GRID

TOLERANCE = 1e-5  # a fit stops when no entry of the gradient is larger
MAX_ITERATIONS = 500
MEMORY_STEPS = 20  # history of L-BFGS: a fifth less work than with the default of 10


class LinearModel(NamedTuple):
    """A linear classifier of standardised features."""

    weights: Float[Array, "f c"]
    bias: Float[Array, " c"]
    mean: Float[Array, " f"]
    scale: Float[Array, " f"]


class L2Choice(NamedTuple):
    """The best penalty on held-out rows, and the accuracy of each penalty."""

    l2: float
    accuracies: dict[float, float]


def fit_logistic_regression(
    features: Float[Array, "m f"],
    labels: Int[Array, " m"],
    *,
    num_classes: int,
    l2: float = L2,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> LinearModel:
    """Multinomial logistic regression on standardised features, by L-BFGS.

    Minimises mean cross entropy + l2/2·‖weights‖² over features with the mean 0 and
    the deviation 1 of the training set; the bias is not penalised. scikit-learn's
    `LogisticRegression(C=1 / (l2 * M))` behind a `StandardScaler` has the same optimum.

    Args:
        features: [M, F] training features.
        labels: [M] their classes, in [0, `num_classes`).
        num_classes: C, at least 2; classes without a row are allowed.
        l2: penalty, at least 0.
        tolerance: stop when no entry of the gradient is larger.
        max_iterations: largest number of iterations.

    Returns:
        The model, in the features' precision, at least float32.

    Raises:
        ValueError: the arrays do not fit (see `checks.labelled`), all rows are of one
            class, or the penalty is negative or not finite.
    """
    features, labels = _fittable(features, labels, num_classes)
    check_penalties(l2)
    mean, scale = standardiser(features)
    weights, bias = minimise(
        standardised(features, mean, scale),
        labels,
        num_classes=num_classes,
        l2=l2,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return LinearModel(weights, bias, mean, scale)


def predict(model: LinearModel, features: Float[Array, "b f"]) -> Int[Array, " b"]:
    """The class with the largest score for each row; see `scores` for errors."""
    return scores(model, features).argmax(axis=1)


def scores(model: LinearModel, features: Float[Array, "b f"]) -> Float[Array, "b c"]:
    """Scores by class for each row; their softmax are the model's probabilities.

    Raises:
        ValueError: the rows are not as long as those that the model was fitted to.
    """
    if np.ndim(features) != 2 or np.shape(features)[1] != len(model.mean):
        raise ValueError(
            f"features: expected [rows, {len(model.mean)}] for this model, got shape "
            f"{np.shape(features)}"
        )
    values = standardised(checks.as_floats(features), model.mean, model.scale)
    return _scores(model.weights, model.bias, values)


def accuracy(
    model: LinearModel, features: Float[Array, "b f"], labels: Int[Array, " b"]
) -> float:
    """Share of rows that the model classifies correctly.

    Raises:
        ValueError: the arrays do not fit the model or each other.
    """
    features, labels = checks.labelled(features, labels, num_classes=len(model.bias))
    return float(np.mean(np.asarray(predict(model, features) == labels)))


def choose_l2(
    features: Float[Array, "m f"],
    labels: Int[Array, " m"],
    *,
    num_classes: int,
    grid: Sequence[float] = L2_GRID,
    held_out: float = 0.2,
    seed: int = 0,
) -> L2Choice:
    """Chooses the penalty with the best accuracy on held-out training rows.

    All penalties of the grid are fitted at once. The part has the share `held_out` of
    each class, rounded down, drawn by the seed. Equal accuracies: the largest penalty.

    Args:
        features: [M, F] training features; do not pass the test set.
        labels: [M] their classes.
        num_classes: C, at least 2.
        grid: penalties to try.
        held_out: share of each class to hold out, in (0, 1).
        seed: seed of the draw.

    Returns:
        The penalty and the accuracies by penalty.

    Raises:
        ValueError: the arrays do not fit or are of one class, the grid is empty or has
            a negative penalty, or the share leaves one of the two parts empty.
    """
    features, labels = _fittable(features, labels, num_classes)
    check_penalties(*grid)
    if not grid:
        raise ValueError("grid: expected at least one penalty")
    out = _stratified(np.asarray(labels), held_out, seed)
    mean, scale = standardiser(features[~out])
    values = standardised(features, mean, scale)
    fits = jax.vmap(
        lambda l2: minimise(values[~out], labels[~out], num_classes=num_classes, l2=l2)
    )(jnp.asarray(grid, values.dtype))
    won = jax.vmap(winners, in_axes=(0, 0, None))(*fits, values[out])
    right = np.mean(np.asarray(won == labels[out][None]), axis=1)
    accuracies = {float(l2): float(r) for l2, r in zip(grid, right, strict=True)}
    return L2Choice(max(accuracies, key=lambda l2: (accuracies[l2], l2)), accuracies)


@jax.jit
def standardiser(
    features: Float[Array, "m f"],
) -> tuple[Float[Array, " f"], Float[Array, " f"]]:
    """Mean and deviation of each feature; a constant feature's deviation is 1."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    # A smaller deviation is rounding error of the mean and must not be scaled up.
    noise = 1e-6 * jnp.abs(features).max(axis=0)
    return mean, jnp.where(deviation > noise, deviation, 1.0)


@jax.jit
def standardised(
    features: Float[Array, "m f"], mean: Float[Array, " f"], scale: Float[Array, " f"]
) -> Float[Array, "m f"]:
    """Standardises features: subtracts the mean, divides by the deviation."""
    return (features - mean[None]) / scale[None]


@jax.jit
def winners(
    weights: Float[Array, "f c"], bias: Float[Array, " c"], values: Float[Array, "m f"]
) -> Int[Array, " m"]:
    """The class with the largest score for each row of standardised values."""
    return _scores(weights, bias, values).argmax(axis=1)


def _scores(
    weights: Float[Array, "f c"], bias: Float[Array, " c"], values: Float[Array, "m f"]
) -> Float[Array, "m c"]:
    """Scores by class, in full precision also on accelerators that round products."""
    return jnp.matmul(values, weights, precision="highest") + bias[None]


def softmax_losses(
    scores: Float[Array, "m c"], labels: Int[Array, " m"]
) -> Float[Array, " m"]:
    """Cross entropies of rows with one class each."""
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels)


@functools.partial(jax.jit, static_argnames=("num_classes", "losses"))
def minimise(
    values: Float[Array, "m f"],
    labels: Int[Array, "m ..."],
    *,
    num_classes: int,
    l2: jax.typing.ArrayLike,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
    losses: Callable[[jax.Array, jax.Array], jax.Array] = softmax_losses,
) -> tuple[Float[Array, "f c"], Float[Array, " c"]]:
    """Weights and bias at the optimum for standardised values; see the fit above.

    Pure, and may be mapped over data or penalties by `jax.vmap`. `losses` are those of
    the rows, of their scores and labels.
    """

    def loss(params: tuple[jax.Array, jax.Array]) -> jax.Array:
        weights, bias = params  # [C, F]: its gradient takes a CPU a quarter of [F, C]'s
        cost = losses(_scores(weights.T, bias, values), labels).mean()
        return cost + l2 / 2 * jnp.sum(weights**2)

    tx = optax.lbfgs(memory_size=MEMORY_STEPS)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def improve(carry: tuple) -> tuple:
        params, state, _, done = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = tx.update(
            grad, state, params, value=value, grad=grad, value_fn=loss
        )
        params = optax.apply_updates(params, updates)
        slope = optax.tree.norm(optax.tree.get(state, "grad"), ord=jnp.inf)
        return params, state, slope, done + 1

    def goes_on(carry: tuple) -> jax.Array:
        _, _, slope, done = carry
        return (done < max_iterations) & (slope > tolerance)

    start = (
        jnp.zeros((num_classes, values.shape[1]), values.dtype),
        jnp.zeros(num_classes, values.dtype),
    )
    infinity = jnp.asarray(jnp.inf, values.dtype)
    begin = (start, tx.init(start), infinity, 0)
    (weights, bias), *_ = jax.lax.while_loop(goes_on, improve, begin)
    return weights.T, bias


def check_penalties(*penalties: float) -> None:
    """Checks that each penalty is finite and at least 0; raises ValueError."""
    for l2 in penalties:
        if not 0 <= l2 < float("inf"):
            raise ValueError(f"l2: expected a finite number >= 0, got {l2}")


def _fittable(
    features: jax.Array, labels: jax.Array, num_classes: int
) -> tuple[jax.Array, jax.Array]:
    """Checks the arrays and that there are at least two classes."""
    features, labels = checks.labelled(features, labels, num_classes=num_classes)
    if bool((labels == labels[0]).all()):
        raise ValueError(f"labels: expected at least two classes, got only {labels[0]}")
    return features, labels


def _stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Mask [M] of the held-out rows: a share of each class, rounded down."""
    rng = np.random.default_rng(seed)
    out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        out[rows[: int(share * len(rows))]] = True
    if not 0 < share < 1 or not out.any():
        raise ValueError(
            "held_out: expected a share in (0, 1) that holds out a row of some class, "
            f"got {share} of {len(labels)} rows"
        )
    return out
