"""The input adversary: one signed gradient step on the images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from caco_jax.losses import checks


def fgsm_perturb(
    payoff: Callable[[Float[Array, "..."]], Float[Array, ""]],
    images: Float[Array, "..."],
    *,
    epsilon: float,
) -> Float[Array, "..."]:
    """Moves every pixel by `epsilon` in the direction that raises the payoff.

    ``images + epsilon * sign(gradient of payoff at images)``. The payoff sees the
    whole batch, so an image also moves through the other images' negatives and
    through BatchNorm. A pixel whose gradient is exactly 0 stays. Nothing is clipped.

    Args:
        payoff: images -> the scalar that the adversary ascends.
        images: floats of any shape, the point where the gradient is taken.
        epsilon: at least 0, in the units of `images` (CLAE: normalised pixels).

    Returns:
        The perturbed images in the shape and dtype of `images`; constants for any
        gradient.

    Raises:
        ValueError: the payoff is not a scalar, or epsilon is below 0.
        TypeError: the images are not floats.

    References:
        Ho and Vasconcelos 2020, arXiv:2010.12050, eq. 10; the step is from Goodfellow
        et al. 2015, arXiv:1412.6572.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images: expected floats to perturb, got {images.dtype}")
    checks.check_at_least(0, epsilon=epsilon)

    def scalar_payoff(x: jax.Array) -> jax.Array:
        value = payoff(x)
        if jnp.shape(value) != ():
            raise ValueError(f"payoff: expected a scalar, got shape {jnp.shape(value)}")
        return value

    images = jax.lax.stop_gradient(images)
    uphill = jnp.sign(jax.grad(scalar_payoff)(images))
    return jax.lax.stop_gradient(images + jnp.asarray(epsilon, images.dtype) * uphill)
