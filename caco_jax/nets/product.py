"""A 1x1 convolution of groups of rows, and its moments without it."""

import math

import jax
import jax.numpy as jnp


def moments_of_product(
    groups: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of each group of ``groups @ kernel``, unmade.

    The variance of a weighted sum is the covariance between the weights: for all
    channels one C x C matrix is enough, which a matrix unit sums in one pass.

    Args:
        groups: [G, S, H, W, C] floats.
        kernel: [C, D], at least float32.

    Returns:
        [G, 1, 1, 1, D] each.
    """
    axes = tuple(range(1, groups.ndim - 1))
    count = math.prod(groups.shape[1:-1])
    square = _square(groups)
    mean = groups.astype(kernel.dtype).mean(axes)
    covariance = square / count - mean[:, :, None] * mean[:, None, :]
    precision = jax.lax.Precision.HIGH
    spread = jnp.matmul(covariance, kernel[None], precision=precision)
    var = (spread * kernel[None]).sum(1)  # [groups, D]
    shape = (len(groups), *[1] * len(axes), -1)
    mean = jnp.matmul(mean, kernel, precision=precision)
    return mean.reshape(shape), jnp.maximum(var.reshape(shape), 0)


def product(groups: jax.Array, kernels: jax.Array) -> jax.Array:
    """[G, S, H, W, C] @ [G or 1, C, D] -> [G, S, H, W, D]."""
    if len(groups) > 1:
        kernels = jnp.broadcast_to(kernels, (len(groups), *kernels.shape[1:]))
        return jnp.einsum("gshwc,gcd->gshwd", groups, kernels)
    # As a convolution, a TPU's compiler joins it with what comes before and after.
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        groups[0], kernels[None], (1, 1), "VALID", dimension_numbers=dimensions
    )[None]


@jax.custom_vjp
def _square(groups: jax.Array) -> jax.Array:
    """[G, S, H, W, C] -> [G, C, C]: each group's rows, transposed, times themselves."""
    if len(groups) > 1:
        return _square_by_product(groups)
    return jax.lax.platform_dependent(
        groups, tpu=_square_by_convolution, default=_square_by_product
    )


def _square_by_product(groups: jax.Array) -> jax.Array:
    sums = jnp.promote_types(groups.dtype, jnp.float32)
    return jnp.einsum("gshwc,gshwd->gcd", groups, groups, preferred_element_type=sums)


def _square_by_convolution(groups: jax.Array) -> jax.Array:
    """The same as a kernel's gradient is computed, of one group."""
    square = jax.lax.conv_general_dilated(
        groups[0],
        groups[0],
        (1, 1),
        "VALID",
        dimension_numbers=("CHWN", "IHWO", "NHWC"),
        preferred_element_type=jnp.promote_types(groups.dtype, jnp.float32),
    )  # [C, 1, 1, C]
    return square[None, :, 0, 0]


def _square_backward(groups: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    both = gradient + jnp.swapaxes(gradient, 1, 2)
    return (product(groups, both.astype(groups.dtype)),)


_square.defvjp(lambda groups: (_square(groups), groups), _square_backward)
