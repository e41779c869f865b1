"""Deep linear networks under fixed α: maximising the energy is PCA.

With z = W_L ... W_1 x and ‖W_l‖_F = 1 the energy is ½ tr(W X_α Wᵀ), W the product and
X_α the contrastive covariance of the inputs. Where the top eigenvalue of X_α is above
0 and is no other's, every local maximum is global: the product has rank 1 and is
aligned with the top eigenvector, and the energy is half the eigenvalue.

References: Tian 2022, arXiv:2201.12680, section 4.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax.losses.contrast import l2_normalize

Weights = tuple[Float[Array, "out in"], ...]  # first layer first

TIED = 1e-6  # relative difference below which eigenvalues count as tied
RUNAWAY = 1e-6  # relative energy gap above which a start did not reach the maximum
VANISHED = 0.01  # norm below which a product counts as zero
AT_REST = 1e-6  # relative gradient norm below which a point counts as fixed


def product(weights: Weights) -> Float[Array, "out in"]:
    """W_L ... W_1."""
    return functools.reduce(lambda done, layer: layer @ done, weights)


def energy(weights: Weights, covariance: Float[Array, "d d"]) -> Float[Array, ""]:
    """½ tr(W X_α Wᵀ): `contrastive_energy` of the embeddings W x, at fixed α."""
    whole = product(weights)
    return jnp.sum((whole @ covariance) * whole) / 2


def random_weights(key: PRNGKeyArray, sizes: Sequence[int]) -> Weights:
    """Gaussian matrices of Frobenius norm 1 between layers of these sizes."""
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(
        _unit(jax.random.normal(k, (after, before), dtype=jnp.result_type(float)))
        for k, before, after in zip(keys, sizes[:-1], sizes[1:], strict=True)
    )


def _unit(layer: Array) -> Array:
    return l2_normalize(layer.ravel()).reshape(layer.shape)


class Ascent(NamedTuple):
    """End points of projected gradient ascent, for S starts.

    Attributes:
        products: [S, out, d] W_L ... W_1.
        energies: [S].
        gradient_norms: [S] of the energy's gradient within the spheres, over the
            scale that `rate` has too.
        energy_curve: [R, S] energies at step 0, 1, 2, 4, 8, ...
        curve_steps: [R] those steps.
        steps: number of steps done.
    """

    products: Float[Array, "s out d"]
    energies: Float[Array, " s"]
    gradient_norms: Float[Array, " s"]
    energy_curve: Float[np.ndarray, "r s"]
    curve_steps: np.ndarray
    steps: int


def ascend(
    covariance: Float[Array, "d d"],
    starts: Weights,
    *,
    rate: float = 2.0,
    steps: int = 2**14,
    tolerance: float = 1e-10,
) -> Ascent:
    """Projected gradient ascent of the energy from many starts at once.

    Every layer moves along its gradient and is projected to its sphere, until no
    start's gradient norm is above the tolerance.

    Args:
        covariance: [d, d], symmetric: X_α.
        starts: layers [S, out, in] of S networks.
        rate: step size, divided by the largest eigenvalue of X_α, or by twice the size
            of the most negative one if that is larger: longer steps overshoot.
        steps: largest number of steps, rounded up to a power of two.
        tolerance: of the gradient norms; 0 runs all steps.

    Raises:
        ValueError: the covariance is not a finite symmetric matrix, or does not fit
            the first layer.
    """
    check_covariance(covariance)
    if starts[0].shape[2] != len(covariance):
        raise ValueError(
            f"expected a first layer of {len(covariance)} inputs, as the covariance "
            f"has, got {starts[0].shape[2]}"
        )
    eigenvalues = jnp.linalg.eigvalsh(covariance)
    scale = jnp.maximum(eigenvalues[-1], -2 * eigenvalues[0])
    scaled = covariance / scale
    curve, curve_steps = [_energies(starts, scaled)], [0]
    weights, done = starts, 0
    norms = _gradient_norms(weights, scaled)
    while done < steps and float(jnp.max(norms)) > tolerance:
        until = max(2 * done, 1)
        weights = _moves(weights, scaled, rate, jnp.asarray(until - done))
        done = until
        norms = _gradient_norms(weights, scaled)
        curve.append(_energies(weights, scaled))
        curve_steps.append(done)
    return Ascent(
        products=jax.vmap(product)(weights),
        energies=_energies(weights, scaled) * scale,
        gradient_norms=norms,
        energy_curve=np.asarray(jnp.stack(curve) * scale),
        curve_steps=np.asarray(curve_steps),
        steps=done,
    )


@jax.jit
def _energies(weights: Weights, covariance: Array) -> Array:
    return jax.vmap(energy, in_axes=(0, None))(weights, covariance)


@jax.jit
def _moves(weights: Weights, covariance: Array, rate: float, count: Array) -> Weights:
    """`count` steps of all networks."""

    def move(weights: Weights) -> Weights:
        gradients = jax.grad(energy)(weights, covariance)
        return tuple(
            _unit(layer + rate * gradient)
            for layer, gradient in zip(weights, gradients, strict=True)
        )

    return lax.fori_loop(0, count, lambda _, w: jax.vmap(move)(w), weights)


@jax.jit
def _gradient_norms(weights: Weights, covariance: Array) -> Array:
    """Norms of the gradients' parts within the spheres."""

    def one(weights: Weights) -> Array:
        squares = jnp.zeros((), covariance.dtype)
        gradients = jax.grad(energy)(weights, covariance)
        for layer, gradient in zip(weights, gradients, strict=True):
            tangent = gradient - jnp.sum(gradient * layer) * layer
            squares = squares + jnp.sum(tangent * tangent)
        return jnp.sqrt(squares)

    return jax.vmap(one)(weights)


# The claims of the theorem about an end point.


class Verdict(NamedTuple):
    """The theorem's three claims, and the reason why a start did not reach the maximum.

    Attributes:
        gaps: [S] (½ λ - energy) / |½ λ|, λ the top eigenvalue; -1 where λ is below 0
            and the product vanished.
        rank_ratios: [S] second over first singular value of the product.
        cosines: [S] |cos| between the product's first right singular vector and the
            top eigenvector.
        stuck: for each start with a gap above `RUNAWAY` in size: its number and why.
    """

    gaps: Float[np.ndarray, " s"]
    rank_ratios: Float[np.ndarray, " s"]
    cosines: Float[np.ndarray, " s"]
    stuck: dict[int, str]


def judge(ascent: Ascent, covariance: Float[Array, "d d"]) -> Verdict:
    """Compares end points with the top eigenpair of X_α."""
    values, vectors = np.linalg.eigh(np.asarray(covariance))
    products = np.asarray(ascent.products)
    _, singular, right = np.linalg.svd(products, full_matrices=False)
    gaps = energy_gaps(ascent.energies, covariance)
    second = singular[:, 1] if singular.shape[1] > 1 else 0 * singular[:, 0]
    ratios = np.divide(
        second, singular[:, 0], out=np.ones_like(second), where=singular[:, 0] > 0
    )
    overlaps = np.abs(right[:, 0] @ vectors)  # [S, d]
    norms = np.asarray(ascent.gradient_norms)
    stuck = {
        int(i): _explain(singular[i, 0], norms[i], overlaps[i], values)
        for i in np.flatnonzero(np.abs(gaps) > RUNAWAY)
    }
    return Verdict(gaps, ratios, overlaps[:, -1], stuck)


def energy_gaps(
    energies: Float[Array, "... s"] | Float[np.ndarray, "... s"],
    covariance: Float[Array, "d d"],
) -> Float[np.ndarray, "... s"]:
    """(½ λ - energy) / |½ λ| with λ the top eigenvalue of X_α."""
    best = np.linalg.eigvalsh(np.asarray(covariance))[-1] / 2
    return (best - np.asarray(energies)) / abs(best)


def in_top_plane(
    ascent: Ascent, covariance: Float[Array, "d d"]
) -> Float[np.ndarray, "s 2"]:
    """Each product's first right singular vector, in the top two eigenvectors."""
    _, vectors = np.linalg.eigh(np.asarray(covariance))
    _, _, right = np.linalg.svd(np.asarray(ascent.products), full_matrices=False)
    return right[:, 0] @ vectors[:, [-1, -2]]


def _explain(
    length: float, norm: float, overlaps: np.ndarray, values: np.ndarray
) -> str:
    if length < VANISHED:
        return f"collapsed: the product vanished, its norm is below {VANISHED:g}"
    if norm > AT_REST:
        return f"not converged: gradient norm {norm:.1e}; use more steps"
    nearest = int(np.argmax(overlaps))
    return (
        f"at a saddle point: eigenvector {len(values) - nearest} of {len(values)} "
        f"(|cos| {overlaps[nearest]:.4f}, eigenvalue {values[nearest]:.4g})"
    )


def check_covariance(covariance: Float[Array, "d d"]) -> None:
    """Raises ValueError unless this is a finite, symmetric matrix."""
    matrix = np.asarray(covariance)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"covariance: expected [d, d], got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("covariance: expected finite entries, got NaN or infinity")
    if not np.allclose(matrix, matrix.T, rtol=1e-5, atol=1e-6 * np.abs(matrix).max()):
        raise ValueError("covariance: expected a symmetric matrix")


def failed_conditions(covariance: Float[Array, "d d"]) -> list[str]:
    """The conditions of the theorem that X_α violates; empty if all hold."""
    check_covariance(covariance)
    values = np.linalg.eigvalsh(np.asarray(covariance, np.float64))
    top = values[-1]
    failed = []
    if top <= 0:
        failed.append(f"the top eigenvalue of X_α is not above 0: {top:.4g}")
    if len(values) > 1 and top - values[-2] <= TIED * abs(top):
        failed.append(f"the top two eigenvalues of X_α are tied: {top:.6g}")
    return failed


def check_theorem(covariance: Float[Array, "d d"], sizes: Sequence[int]) -> None:
    """Checks that the theorem applies to this network on these inputs.

    Args:
        covariance: [d, d], X_α.
        sizes: widths of the inputs and of every layer's outputs.

    Raises:
        ValueError: there is no layer, a layer has no unit, or X_α fails a condition;
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            "expected at least one layer, each with one unit or more, got sizes "
            f"{sizes}"
        )
    failed = failed_conditions(covariance)
    if failed:
        raise ValueError(f"the theorem does not apply: {'; '.join(failed)}")
