"""Checks of the inputs of losses, at trace time."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def check_embeddings(**arrays: jax.Array) -> None:
    """Checks that each array is a non-empty matrix of floats.

    Args:
        **arrays: the arrays by the name that the caller knows them by.

    Raises:
        ValueError: an array is not of rank 2, or has no rows or no columns.
        TypeError: an array does not hold real floating-point numbers.
    """
    for name, array in arrays.items():
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(
                f"{name}: expected a non-empty [rows, dimensions] array, got shape "
                f"{tuple(array.shape)}"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"{name}: expected floating-point embeddings, got {array.dtype}"
            )


def check_same_shape(**arrays: jax.Array) -> None:
    """Checks that the arrays have one shape; raises ValueError that names all."""
    if len({array.shape for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(a.shape)}" for name, a in arrays.items())
        raise ValueError(f"expected arrays of one shape, got {shapes}")


def check_same_width(**arrays: jax.Array) -> None:
    """Checks that the rows have one length; raises ValueError that names all."""
    if len({array.shape[-1] for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(a.shape)}" for name, a in arrays.items())
        raise ValueError(f"expected rows of one length, got {shapes}")


def check_positive(**numbers: float) -> None:
    """Checks that each number is finite and above 0, where it is known at trace time.

    Raises:
        ValueError: a number is not; the message names it and its value.
    """
    for name, number in numbers.items():
        if isinstance(number, jax.core.Tracer):
            continue  # a traced temperature is the caller's business
        if not 0 < float(number) < float("inf"):
            raise ValueError(f"{name}: expected a finite number > 0, got {number}")


def check_at_least(lowest: float, /, **numbers: float) -> None:
    """Checks that each number is finite and at least `lowest`, as `check_positive`.

    Raises:
        ValueError: a number is not; the message names it and its value.
    """
    for name, number in numbers.items():
        if isinstance(number, jax.core.Tracer):
            continue
        if not lowest <= float(number) < float("inf"):
            raise ValueError(
                f"{name}: expected a finite number of at least {lowest}, got {number}"
            )


def check_choice(choices: Sequence[str], /, **values: str) -> None:
    """Checks that each value is one of the choices; raises ValueError that names it."""
    for name, value in values.items():
        if value not in choices:
            known = ", ".join(choices)
            raise ValueError(f"{name}: expected one of {known}, got {value!r}")
