"""Contrastive losses as a game over pair weights: the (phi, psi) family of α-CL.

Notation: rows of z1 are first views, row i of z2 is the second view of image i;
d_ij² = ½‖z1_i - z1_j‖² to another image, d_i² = ½‖z1_i - z2_i‖² to the own view, and
the gap of a pair is d_i² - d_ij². A member's loss is Σ_i φ(Σ_{j≠i} ψ(gap_ij)).

References: Tian 2022, arXiv:2201.12680.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from caco_jax.losses import checks
from caco_jax.losses.contrast import (
    accumulator,
    check_pairs,
    matmul,
    similarities,
    without_diagonal,
)

Elementwise = Callable[[jax.Array], jax.Array]


class LogForm(NamedTuple):
    """A member whose ψ is an exponential, written so that nothing overflows."""

    phi_of_exp: Elementwise  # u -> φ(exp(u))
    log_psi: Elementwise  # x -> log ψ(x)


class Family(NamedTuple):
    """A member of the family: two increasing elementwise functions.

    A newcomer needs `phi` and `psi` only. `log_form` says the same in logarithms,
    and is used instead where it is given.
    """

    name: str
    phi: Elementwise
    psi: Elementwise
    log_form: LogForm | None = None


def _exponential(name: str, phi_of_exp: Elementwise, log_psi: Elementwise) -> Family:
    """Makes a member of the family from its logarithmic form."""
    return Family(
        name,
        phi=lambda x: phi_of_exp(jnp.log(x)),
        psi=lambda x: jnp.exp(log_psi(x)),
        log_form=LogForm(phi_of_exp, log_psi),
    )


def _log(number: float, dtype: jnp.dtype) -> jax.Array:
    """Logarithm of a Python number, which may be 0, in the given dtype."""
    return jnp.log(jnp.asarray(number, dtype))


def info_nce_family(*, temperature: float = 0.5, epsilon: float = 1.0) -> Family:
    """φ = τ log(ε + x), ψ = exp(x / τ); ε weighs the positive among the candidates."""
    checks.check_positive(temperature=temperature)
    checks.check_at_least(0, epsilon=epsilon)
    return _exponential(
        "info_nce",
        lambda u: temperature * jnp.logaddexp(u, _log(epsilon, u.dtype)),
        lambda x: x / temperature,
    )


def mine_family() -> Family:
    """φ = log x, ψ = exp(x)."""
    return _exponential("mine", lambda u: u, lambda x: x)


def triplet_family(*, margin: float = 1.0) -> Family:
    """φ = x, ψ = max(x + margin, 0)."""
    checks.check_at_least(0, margin=margin)
    return Family("triplet", lambda x: x, lambda x: jax.nn.relu(x + margin))


def soft_triplet_family(*, temperature: float = 0.5, margin: float = 1.0) -> Family:
    """φ = τ log(1 + x), ψ = exp(x / τ + margin)."""
    checks.check_positive(temperature=temperature)
    checks.check_at_least(0, margin=margin)
    return _exponential(
        "soft_triplet",
        lambda u: temperature * jax.nn.softplus(u),
        lambda x: x / temperature + margin,
    )


def tuplet_family() -> Family:
    """The (N+1)-tuplet loss: φ = log(1 + x), ψ = exp(x)."""
    return _exponential("tuplet", jax.nn.softplus, lambda x: x)


def lifted_structured_family(*, margin: float = 1.0) -> Family:
    """φ = max(log x, 0)², ψ = exp(x + margin)."""
    checks.check_at_least(0, margin=margin)
    return _exponential(
        "lifted_structured",
        lambda u: jnp.square(jax.nn.relu(u)),
        lambda x: x + margin,
    )


def modified_triplet_family(*, scale: float = 1.0) -> Family:
    """φ = x, ψ = sigmoid(scale · x)."""
    checks.check_positive(scale=scale)
    return Family("modified_triplet", lambda x: x, lambda x: jax.nn.sigmoid(scale * x))


def triplet_contrastive_family() -> Family:
    """φ = x, ψ = x: every pair weighs the same."""
    return Family("triplet_contrastive", lambda x: x, lambda x: x)


FAMILIES: dict[str, Callable[..., Family]] = {
    "info_nce": info_nce_family,
    "mine": mine_family,
    "triplet": triplet_family,
    "soft_triplet": soft_triplet_family,
    "tuplet": tuplet_family,
    "lifted_structured": lifted_structured_family,
    "modified_triplet": modified_triplet_family,
    "triplet_contrastive": triplet_contrastive_family,
}


def family_loss(
    z1: Float[Array, "n d"], z2: Float[Array, "n d"], family: Family
) -> Float[Array, ""]:
    """The member's loss Σ_i φ(Σ_{j≠i} ψ(d_i² - d_ij²)): a sum over images, not a mean.

    Rows are used as given: normalise first where the distances should be cosines.

    Args:
        z1: [N, D] floats, embeddings of the first views.
        z2: [N, D] floats, embeddings of the second views of the same images.
        family: the member, from `FAMILIES` or your own.

    Returns:
        The loss in the member's units, at least float32.

    Raises:
        ValueError: the shapes differ, or there are fewer than two pairs.
        TypeError: an array does not hold floats.

    References:
        Tian 2022, arXiv:2201.12680, eq. 1 and table 1.
    """
    check_pairs(z1, z2)
    return jnp.sum(_row_losses(_gaps(z1, z2), family))


def pairwise_importance(
    z1: Float[Array, "n d"], z2: Float[Array, "n d"], family: Family
) -> Float[Array, "n n"]:
    """The weight α_ij = φ'(ξ_i) ψ'(d_i² - d_ij²) that the member gives each pair.

    By the chain rule this is the derivative of the loss in the gap of the pair, which
    is how it is computed: no member needs a derivative of its own. For InfoNCE row i
    is a softmax of -d_ij² / τ over j ≠ i, with ε exp(-d_i² / τ) in the denominator.

    The result is differentiable; stop its gradient where α is a player of its own.

    Args:
        z1: [N, D] floats, embeddings of the first views.
        z2: [N, D] floats, embeddings of the second views of the same images.
        family: the member, from `FAMILIES` or your own.

    Returns:
        [N, N] weights, at least float32; 0 on the diagonal.

    Raises:
        ValueError: the shapes differ, or there are fewer than two pairs.
        TypeError: an array does not hold floats.

    References:
        Tian 2022, arXiv:2201.12680, theorem 1.
    """
    check_pairs(z1, z2)
    return jax.grad(lambda gaps: jnp.sum(_row_losses(gaps, family)))(_gaps(z1, z2))


def contrastive_energy(
    z1: Float[Array, "n d"], z2: Float[Array, "n d"], alpha: Float[Array, "n n"]
) -> Float[Array, ""]:
    """E_α = Σ_i Σ_{j≠i} α_ij (d_ij² - d_i²): the encoder ascends it, α descends it.

    With α = stop_gradient(pairwise_importance(z1, z2, family)) its gradient in the
    encoder is minus that of `family_loss`. Equals ½ tr contrastive_covariance.

    Args:
        z1: [N, D] floats, embeddings of the first views.
        z2: [N, D] floats, embeddings of the second views of the same images.
        alpha: [N, N] weights; the diagonal is ignored. Not held constant here.

    Returns:
        The energy, at least float32.

    Raises:
        ValueError: the shapes do not fit together, or there are fewer than two pairs.
        TypeError: an array does not hold floats.

    References:
        Tian 2022, arXiv:2201.12680, eq. 4.
    """
    check_pairs(z1, z2)
    _check_weights(alpha, z1.shape[0])
    return -jnp.sum(without_diagonal(alpha) * without_diagonal(_gaps(z1, z2)))


def contrastive_covariance(
    x1: Float[Array, "n d"], x2: Float[Array, "n d"], alpha: Float[Array, "n n"]
) -> Float[Array, "d d"]:
    """C_α = Σ_{i, j≠i} α_ij [(a_i - a_j)(a_i - a_j)ᵀ - (a_i - b_i)(a_i - b_i)ᵀ].

    Here a are the rows of x1 and b those of x2. A few matrix products: memory grows
    with N² + d², not with N² d². (The authors' script weighs differently: see
    `alpha_published`.)

    Args:
        x1: [N, d] floats, first views (inputs or embeddings).
        x2: [N, d] floats, second views of the same images.
        alpha: [N, N] weights; the diagonal is ignored.

    Returns:
        [d, d], symmetric, at least float32.

    Raises:
        ValueError: the shapes do not fit together, or there are fewer than two pairs.
        TypeError: an array does not hold floats.

    References:
        Tian 2022, arXiv:2201.12680, definition 1.
    """
    check_pairs(x1, x2)
    _check_weights(alpha, x1.shape[0])
    own = jnp.sum(without_diagonal(alpha), axis=1)  # Σ_{j≠i} α_ij
    return inter_covariance(x1, alpha) - intra_covariance(x1, x2, own)


def inter_covariance(
    x: Float[Array, "n d"], alpha: Float[Array, "n n"]
) -> Float[Array, "d d"]:
    """Σ_ij α_ij (x_i - x_j)(x_i - x_j)ᵀ, by the Laplacian of the weights' graph."""
    _check_weights(alpha, x.shape[0])
    dtype = accumulator(x, alpha)
    x = x.astype(dtype) - jnp.mean(x.astype(dtype), axis=0, keepdims=True)
    both = (alpha + alpha.T).astype(dtype)  # only differences count: x is centred
    spread = jnp.sum(both, axis=1, keepdims=True) * x - matmul(both, x)
    return matmul(x.T, spread)


def intra_covariance(
    x1: Float[Array, "n d"], x2: Float[Array, "n d"], weights: Float[Array, " n"]
) -> Float[Array, "d d"]:
    """Σ_i weights_i (x1_i - x2_i)(x1_i - x2_i)ᵀ, between the views of one image."""
    checks.check_same_shape(x1=x1, x2=x2)
    dtype = accumulator(x1, x2, weights)
    between = x1.astype(dtype) - x2.astype(dtype)
    return matmul(between.T, weights.astype(dtype)[:, None] * between)


def _gaps(z1: Float[Array, "n d"], z2: Float[Array, "n d"]) -> Float[Array, "n n"]:
    """d_i² - d_ij² for every pair; the diagonal, d_i², belongs to no pair."""
    dtype = accumulator(z1, z2)
    z1, z2 = z1.astype(dtype), z2.astype(dtype)
    halves = jnp.sum(jnp.square(z1), axis=1) / 2
    apart = halves[:, None] + halves[None, :] - similarities(z1, z1)  # d_ij²
    return jnp.sum(jnp.square(z1 - z2), axis=1)[:, None] / 2 - apart


def _row_losses(gaps: Float[Array, "n n"], family: Family) -> Float[Array, " n"]:
    """φ(Σ_{j≠i} ψ(gap_ij)) of each row."""
    others = without_diagonal(gaps)
    if family.log_form is None:
        return family.phi(jnp.sum(family.psi(others), axis=1))
    phi_of_exp, log_psi = family.log_form
    return phi_of_exp(jax.nn.logsumexp(log_psi(others), axis=1))


def _check_weights(alpha: jax.Array, n: int) -> None:
    """Checks pair weights of n images."""
    if alpha.shape != (n, n):
        raise ValueError(
            f"alpha: expected one weight per pair, shape {(n, n)}, got "
            f"{tuple(alpha.shape)}"
        )
    if not jnp.issubdtype(alpha.dtype, jnp.floating):
        raise TypeError(f"alpha: expected an array of floats, got {alpha.dtype}")
