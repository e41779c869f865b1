"""The game of α-CL in a network: the gradient identity, and alternating play.

Every member of the (phi, psi) family weights pairs of images by its own α, and its
gradient is that of an energy with this α held constant. This module measures that layer
by layer, and lets the two players move in turns.

References: Tian 2022, arXiv:2201.12680.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from caco_jax import losses
from caco_jax.losses.alpha import Family

PyTree = Any
# parameters -> unit embeddings of first and of second views
EmbedViews = Callable[[PyTree], tuple[Float[Array, "n d"], Float[Array, "n d"]]]


def identity_errors(
    embed: EmbedViews, params: PyTree, families: Mapping[str, Family]
) -> dict[str, dict[str, float]]:
    """Relative error of the gradient identity for each member and layer.

    The claim is ∇_θ L_{φ,ψ} = -∇_θ E_α with α the loss's own weights held constant.
    The right side is computed from the definitions, so that it shares no arithmetic
    with the left: α_ij = φ'(ξ_i) ψ'(d_i² - d_ij²) and E_α = ½ tr C_α. An error is the
    largest difference of a layer's entries relative to the layer's largest entry.

    Args:
        embed: parameters -> embeddings of two views of the same images.
        params: parameters at which the gradients are computed.
        families: the members, by name.

    Returns:
        For each member, the relative error of each array of parameters, by its path.

    References:
        Tian 2022, arXiv:2201.12680, theorem 1.
    """
    members = list(families.values())

    # One program for all members: only the small losses are in the branches.
    @jax.jit
    def gradients(params: PyTree, member: Array) -> tuple[PyTree, PyTree]:
        def loss(params: PyTree) -> Array:
            branches = [
                functools.partial(losses.family_loss, family=f) for f in members
            ]
            return lax.switch(member, branches, *embed(params))

        def energy(params: PyTree) -> Array:
            branches = [functools.partial(_energy_of, f) for f in members]
            return -lax.switch(member, branches, *embed(params))

        return jax.grad(loss)(params), jax.grad(energy)(params)

    return {
        name: relative_errors(*gradients(params, jnp.asarray(i)))
        for i, name in enumerate(families)
    }


def importance_by_definition(
    z1: Float[Array, "n d"], z2: Float[Array, "n d"], family: Family
) -> Float[Array, "n n"]:
    """α_ij = φ'(ξ_i) ψ'(d_i² - d_ij²), ξ_i = Σ_{j≠i} ψ(d_i² - d_ij²), from φ and ψ.

    Equal to `pairwise_importance`, which is finite even if ψ overflows.
    """
    apart = jnp.sum(jnp.square(z1[:, None, :] - z1[None, :, :]), axis=2) / 2
    own = jnp.sum(jnp.square(z1 - z2), axis=1) / 2
    gaps = own[:, None] - apart
    other = ~jnp.eye(len(z1), dtype=bool)
    slopes = jax.vmap(jax.vmap(jax.grad(family.psi)))(gaps)
    xi = jnp.sum(jnp.where(other, family.psi(gaps), 0), axis=1)
    return jnp.where(other, jax.vmap(jax.grad(family.phi))(xi)[:, None] * slopes, 0)


def _energy_of(family: Family, z1: Array, z2: Array) -> Array:
    """The energy ½ tr C_α with the member's own weights held constant."""
    alpha = lax.stop_gradient(importance_by_definition(z1, z2, family))
    return jnp.trace(losses.contrastive_covariance(z1, z2, alpha)) / 2


def relative_errors(got: PyTree, want: PyTree) -> dict[str, float]:
    """Largest difference relative to the largest expected entry, by array."""

    def error(one: Array, other: Array) -> float:
        largest = float(jnp.max(jnp.abs(other)))
        apart = float(jnp.max(jnp.abs(one - other)))
        return apart / largest if largest else apart

    leaves = jax.tree_util.tree_leaves_with_path(jax.tree.map(error, got, want))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): value
        for path, value in leaves
    }


def descend_in_turns(
    embed: EmbedViews,
    params: PyTree,
    family: Family,
    *,
    rate: float,
    steps: int,
    turn: int | None,
) -> Float[np.ndarray, " t"]:
    """Losses of alternating play: α is updated once in `turn` moves of the encoder.

    The best response α = argmin E_α - R(α) is the member's own weights (for InfoNCE, R
    is the entropy); in between the encoder ascends E_α by plain gradient steps. With
    turn 1 this is gradient descent on the loss, by the identity.

    Args:
        embed: parameters -> embeddings of two views of the same images.
        params: initial parameters of the encoder.
        family: the member.
        rate: learning rate of the gradient steps, on the loss per image.
        steps: number of moves of the encoder.
        turn: encoder moves per update of α; None for joint gradient descent on the
            loss.

    Returns:
        [steps + 1] the member's loss per image, before each move and after the last.
    """
    if steps < 1 or (turn is not None and turn < 1):
        raise ValueError(f"expected at least one step and turn, got {steps} and {turn}")

    def payoff(params: PyTree, alpha: Array | None) -> tuple[Array, tuple]:
        z1, z2 = embed(params)
        loss = losses.family_loss(z1, z2, family) / len(z1)
        answer = lax.stop_gradient(losses.pairwise_importance(z1, z2, family))
        if turn is None:
            return loss, (loss, answer)
        held = answer if alpha is None else alpha
        energy = losses.contrastive_energy(z1, z2, held) / len(z1)
        return -energy, (loss, held)

    @jax.jit
    def move(params: PyTree, alpha: Array | None) -> tuple[PyTree, tuple]:
        gradient, seen = jax.grad(payoff, has_aux=True)(params, alpha)
        moved = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
        return moved, seen

    curve, alpha = [], None
    for step in range(steps + 1):  # only the first half of the last move is computed
        fresh = turn is None or step % turn == 0
        params, (loss, alpha) = move(params, None if fresh else alpha)
        curve.append(float(loss))
    return np.asarray(curve)
