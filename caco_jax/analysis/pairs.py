"""Pairs of inputs with fixed weights: Gaussian, digits, mixtures, the user's own.

References: Tian 2022, arXiv:2201.12680.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax import losses
from caco_jax.analysis.importance import check_alpha
from caco_jax.data.sources import load_digits_set
from caco_jax.data.views import digits, make_views
from caco_jax.losses import l2_normalize


class Pairs(NamedTuple):
    """Two views of N inputs, and the weights of their pairs."""

    x1: Float[Array, "n d"]
    x2: Float[Array, "n d"]
    alpha: Float[Array, "n n"]

    @property
    def covariance(self) -> Float[Array, "d d"]:
        """X_α."""
        return losses.contrastive_covariance(self.x1, self.x2, self.alpha)


def weighted_pairs(
    x1: Float[Array, "n d"], x2: Float[Array, "n d"], *, temperature: float = 0.5
) -> Pairs:
    """Pairs with InfoNCE's weights of the inputs' directions, held fixed.

    They are divided by N, so that X_α does not grow with the batch.

    Raises:
        ValueError: the shapes differ, or temperature is not above 0.
    """
    family = losses.FAMILIES["info_nce"](temperature=temperature)
    alpha = losses.pairwise_importance(l2_normalize(x1), l2_normalize(x2), family)
    return Pairs(x1, x2, alpha / len(x1))


def given_pairs(
    x1: Float[Array, "n d"],
    x2: Float[Array, "n d"],
    alpha: Float[Array, "n n"] | None = None,
) -> Pairs:
    """Pairs of the user; without weights they get those of `weighted_pairs`.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or weights
            that `check_alpha` refuses.
    """
    for name, array in (("x1", x1), ("x2", x2)):
        if not np.isfinite(np.asarray(array)).all():
            raise ValueError(f"{name}: expected finite entries, got NaN or infinity")
    if alpha is None:
        return weighted_pairs(x1, x2)
    check_alpha(alpha)
    losses.contrastive_energy(x1, x2, alpha)  # which checks the shapes
    return Pairs(x1, x2, alpha)


def gaussian_pairs(
    key: PRNGKeyArray, *, count: int = 256, dim: int = 16, noise: float = 0.3
) -> Pairs:
    """Gaussian inputs with standard deviations falling from 1 to 0.2, rotated.

    The second view is the first with noise.

    Args:
        key: random key of the draw.
        count: N.
        dim: d.
        noise: its standard deviation in each coordinate. From about 1.5 on the views
            of an input are further apart than inputs, and no eigenvalue of X_α is
            above 0.
    """
    keys = jax.random.split(key, 3)
    dtype = jnp.result_type(float)
    rotation = jnp.linalg.qr(jax.random.normal(keys[0], (dim, dim), dtype))[0]
    spread = jnp.linspace(1, 0.2, dim, dtype=dtype)[None, :]
    x = (jax.random.normal(keys[1], (count, dim), dtype) * spread) @ rotation
    return weighted_pairs(x, x + noise * jax.random.normal(keys[2], x.shape, dtype))


def digit_pairs(*, count: int = 256, seed: int = 0, dim: int = 8) -> Pairs:
    """Views of handwritten digits as in pretraining, averaged to dim x dim pixels.

    Args:
        count: number of images, from the training split.
        seed: chooses the images and draws the views.
        dim: height and width in pixels after averaging; it divides 16.
    """
    pixels = load_digits_set().train_examples
    rows = np.random.default_rng(seed).permutation(len(pixels))[:count]
    make = jax.jit(make_views(digits(), dtype=jnp.result_type(float)))
    x1, x2 = make(jax.random.key(seed), jnp.asarray(pixels[rows]))
    block = x1.shape[1] // dim

    def small(x: Array) -> Array:
        return (
            x.reshape(len(x), dim, block, dim, block).mean((2, 4)).reshape(len(x), -1)
        )

    return weighted_pairs(small(x1), small(x2))


def tie_top_eigenvalues(pairs: Pairs) -> Pairs:
    """Stretches inputs along one eigenvector of X_α until its top two eigenvalues tie.

    Raises:
        ValueError: X_α has no two eigenvalues above 0.
    """
    values, vectors = jnp.linalg.eigh(pairs.covariance)
    if len(values) < 2 or values[-2] <= 0:
        raise ValueError("expected two eigenvalues above 0 to tie, got fewer")
    second = vectors[:, -2]
    stretch = jnp.eye(len(values), dtype=values.dtype) + (
        jnp.sqrt(values[-1] / values[-2]) - 1
    ) * jnp.outer(second, second)
    return pairs._replace(x1=pairs.x1 @ stretch, x2=pairs.x2 @ stretch)


def mixture_views(
    key: PRNGKeyArray,
    *,
    count: int,
    directions: int = 10,
    noise: float = 0.5,
    magnitudes: tuple[float, float] = (10.0, 1.0),
) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    """Two views of inputs, each along one of d orthogonal directions.

    Args:
        key: random key of the draw.
        count: N.
        directions: d.
        noise: standard deviation of a view's magnitude around its direction's.
        magnitudes: of the first and the last direction; those between are evenly
            spaced.
    """
    which_key, *view_keys = jax.random.split(key, 3)
    dtype = jnp.result_type(float)
    which = jax.random.randint(which_key, (count,), 0, directions)
    size = jnp.linspace(*magnitudes, directions, dtype=dtype)[which]
    basis = jax.nn.one_hot(which, directions, dtype=dtype)
    views = [size + noise * jax.random.normal(k, (count,), dtype) for k in view_keys]
    return views[0][:, None] * basis, views[1][:, None] * basis
