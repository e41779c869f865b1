"""Two-layer ReLU networks: fixed points, and the directions that units represent.

Inputs are mixtures of d orthogonal directions, one in each sample. Under fixed α a
linear network of two layers represents one direction; with ReLU there are fixed points
of higher rank, whose units represent several. `ascend` finds and verifies them.

References: Tian 2022, arXiv:2201.12680, section 5.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax import losses
from caco_jax.losses.contrast import l2_normalize, matmul

Activation = Callable[[Array], Array]
ACTIVATIONS: dict[str, Activation] = {"linear": lambda x: x, "relu": jax.nn.relu}

RANK_RATIO = (
    1e-3  # singular values above this share of the first one count for the rank
)
FIXED = 1e-6  # projected gradient norm below which a fixed point is verified


class TwoLayer(NamedTuple):
    """Weights of a two-layer network without biases."""

    first: Float[Array, "h d"]
    second: Float[Array, "o h"]


# Fixed points under fixed α.


class FixedPoints(NamedTuple):
    """End points of projected gradient ascent on the energy, for S starts.

    Attributes:
        networks: S networks: rows of `first` and the whole of `second` have norm 1.
        energies: [S], over the largest eigenvalue of X_α.
        gradient_norms: [S] of the energy's gradient within the spheres, over the same.
        ranks: [S] of the first layer.
        steps: number of steps done.
    """

    networks: TwoLayer
    energies: Float[np.ndarray, " s"]
    gradient_norms: Float[np.ndarray, " s"]
    ranks: np.ndarray
    steps: int

    @property
    def verified(self) -> np.ndarray:
        """[S] whether the end point is a fixed point, by `FIXED`."""
        return self.gradient_norms <= FIXED

    @property
    def verified_ranks(self) -> np.ndarray:
        """Ranks of the fixed points."""
        return self.ranks[self.verified]

    def highest(self) -> TwoLayer | None:
        """The fixed point of highest rank, or None."""
        if not self.verified.any():
            return None
        best = int(np.argmax(np.where(self.verified, self.ranks, 0)))
        return jax.tree.map(lambda leaf: leaf[best], self.networks)

    def summary(self) -> dict[str, list]:
        """The numbers as lists."""
        names = ("energies", "gradient_norms", "ranks", "verified")
        return {name: getattr(self, name).tolist() for name in names}


def ascend(
    keys: PRNGKeyArray,
    x1: Float[Array, "n d"],
    x2: Float[Array, "n d"],
    alpha: Float[Array, "n n"],
    *,
    activation: str,
    hidden: int = 10,
    outputs: int = 20,
    rate: float = 1.0,
    steps: int = 2**16,
    tolerance: float = 1e-8,
) -> FixedPoints:
    """Projected gradient ascent on the energy at fixed α, from one start for each key.

    The rows of the first layer stay on the unit sphere, as under BatchNorm, and the
    second layer on the sphere of Frobenius norm 1.

    Args:
        keys: [S] random keys of the initial weights.
        x1: [N, d] inputs, first views.
        x2: [N, d] inputs, second views.
        alpha: [N, N] weights of pairs, constant.
        activation: "linear" or "relu".
        hidden: number of hidden units.
        outputs: number of outputs.
        rate: step size, divided by the largest eigenvalue of X_α.
        steps: largest number of steps, rounded up to a power of two.
        tolerance: of the gradient norms.
    """
    covariance = losses.contrastive_covariance(x1, x2, alpha)
    alpha = alpha / jnp.max(jnp.abs(jnp.linalg.eigvalsh(covariance)))
    networks = jax.vmap(
        lambda key: _start(key, hidden=hidden, outputs=outputs, inputs=x1.shape[1])
    )(keys)
    game = (x1, x2, alpha)
    done, norms = 0, _norms(networks, game, activation)
    while done < steps and float(jnp.max(norms)) > tolerance:
        until = max(2 * done, 64)
        count = jnp.asarray(until - done)
        networks = _moves(networks, game, activation, rate, count)
        norms, done = _norms(networks, game, activation), until
    energies = jax.vmap(lambda n: _energy(n, game, activation))(networks)
    return FixedPoints(
        networks=networks,
        energies=np.asarray(energies),
        gradient_norms=np.asarray(norms),
        ranks=ranks(networks.first),
        steps=done,
    )


def _start(key: PRNGKeyArray, *, hidden: int, outputs: int, inputs: int) -> TwoLayer:
    keys = jax.random.split(key)
    dtype = jnp.result_type(float)
    first = jax.random.normal(keys[0], (hidden, inputs), dtype)
    second = jax.random.normal(keys[1], (outputs, hidden), dtype)
    return _project(TwoLayer(first, second))


def _project(network: TwoLayer) -> TwoLayer:
    second = l2_normalize(network.second.ravel()).reshape(network.second.shape)
    return TwoLayer(l2_normalize(network.first), second)


Game = tuple[Array, Array, Array]  # x1, x2, alpha


def _energy(network: TwoLayer, game: Game, activation: str) -> Array:
    """`contrastive_energy` of the outputs, by the covariance of the hidden units."""
    x1, x2, alpha = game
    h1, h2 = (ACTIVATIONS[activation](matmul(x, network.first.T)) for x in (x1, x2))
    covariance = losses.contrastive_covariance(h1, h2, alpha)
    return jnp.sum(matmul(network.second, covariance) * network.second) / 2


@functools.partial(jax.jit, static_argnames="activation")
def _moves(
    networks: TwoLayer, game: Game, activation: str, rate: float, count: Array
) -> TwoLayer:
    def move(network: TwoLayer) -> TwoLayer:
        gradient = jax.grad(_energy)(network, game, activation)
        return _project(jax.tree.map(lambda w, g: w + rate * g, network, gradient))

    return lax.fori_loop(0, count, lambda _, n: jax.vmap(move)(n), networks)


@functools.partial(jax.jit, static_argnames="activation")
def _norms(networks: TwoLayer, game: Game, activation: str) -> Array:
    """Norms of the gradients' parts within the spheres."""

    def one(network: TwoLayer) -> Array:
        (first, second), (g1, g2) = (
            network,
            jax.grad(_energy)(network, game, activation),
        )
        g1 = g1 - jnp.sum(g1 * first, axis=1, keepdims=True) * first
        g2 = g2 - jnp.sum(g2 * second) * second
        return jnp.sqrt(jnp.sum(g1 * g1) + jnp.sum(g2 * g2))

    return jax.vmap(one)(networks)


def ranks(matrices: Float[Array, "s r c"]) -> np.ndarray:
    """Numerical rank of each matrix, by `RANK_RATIO`."""
    singular = np.linalg.svd(np.asarray(matrices), compute_uv=False)
    return np.sum(singular > RANK_RATIO * singular[:, :1], axis=1)


# Directions that units represent.


def direction_shares(first: Float[Array, "h d"]) -> Float[Array, "h d"]:
    """Share of each direction in each unit's weights, which are at least 0.

    A unit with zero weights has shares of 0.
    """
    sums = jnp.sum(first, axis=1, keepdims=True)
    return jnp.where(sums > 0, first / jnp.where(sums > 0, sums, 1), 0)


def concentration(first: Float[Array, "h d"]) -> Float[Array, ""]:
    """Mean over units of the largest share of a direction: 1 if each has one only."""
    return jnp.mean(jnp.max(direction_shares(first), axis=1))


def coverage(first: Float[Array, "h d"]) -> Float[Array, ""]:
    """Mean over directions of the largest share in any unit: 1 if none is lost."""
    return jnp.mean(jnp.max(direction_shares(first), axis=0))
