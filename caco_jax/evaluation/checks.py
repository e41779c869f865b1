"""Checks of the arrays of all evaluations, on the host, before anything compiles."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def labelled(
    features: Float[Array, "m f"], labels: Int[Array, " m"], *, num_classes: int
) -> tuple[Float[Array, "m f"], Int[Array, " m"]]:
    """Checks features and labels, and returns them as device arrays.

    Args:
        features: [M, F] finite numbers; sums over them are at least float32.
        labels: [M] classes, in [0, `num_classes`).
        num_classes: C, at least 2.

    Returns:
        Features as floats of at least 32 bits, labels as integers.

    Raises:
        ValueError: a feature is not finite, or see `fitting_labels`.
    """
    known = fitting_labels(features, labels, num_classes=num_classes)
    return finite_floats(features), jnp.asarray(known)


def fitting_labels(
    features: Float[Array, "m f"], labels: Int[Array, " m"], *, num_classes: int
) -> Int[np.ndarray, " m"]:
    """Checks that labels fit the features, and returns them on the host.

    The values of the features are not checked.

    Raises:
        ValueError: there is no row, a shape does not fit, a label is no class, or there
            are fewer than two classes.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
    if np.ndim(features) != 2 or 0 in np.shape(features):
        raise ValueError(
            "features: expected non-empty [rows, dimensions], got shape "
            f"{np.shape(features)}"
        )
    if np.shape(labels) != np.shape(features)[:1]:
        raise ValueError(
            f"labels: expected one for each of the {len(features)} rows of features, "
            f"got shape {np.shape(labels)}"
        )
    known = np.asarray(labels)
    if not np.issubdtype(known.dtype, np.integer):
        raise ValueError(f"labels: expected integers, got {known.dtype}")
    if known.min() < 0 or known.max() >= num_classes:
        raise ValueError(
            f"labels: expected classes 0 to {num_classes - 1}, got {known.min()} to "
            f"{known.max()}"
        )
    return known


def finite_floats(features: Float[Array | np.ndarray, "m f"]) -> Float[Array, "m f"]:
    """Checks that features are finite, and returns them as floats of at least 32 bits.

    Raises:
        ValueError: one is not.
    """
    values = as_floats(features)
    require_finite(_all_finite(values))
    return values


def require_finite(finite: jax.typing.ArrayLike) -> None:
    """Raises ValueError unless features were found finite."""
    if not np.asarray(finite).all():
        raise ValueError("features: expected finite numbers, got NaN or infinity")


def as_floats(features: Float[Array | np.ndarray, "m f"]) -> Float[Array, "m f"]:
    """The features as an array of floats of at least 32 bits."""
    values = jnp.asarray(features)
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def check_same_width(train: jax.Array, test: jax.Array) -> None:
    """Checks that both sets have the same number of features."""
    if np.shape(train)[1:] != np.shape(test)[1:]:
        raise ValueError(
            "expected train and test features of one width, got shapes "
            f"{np.shape(train)} and {np.shape(test)}"
        )


@jax.jit
def _all_finite(values: jax.Array) -> jax.Array:
    return jnp.isfinite(values).all()
