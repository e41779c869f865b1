"""Optimisers of the papers, composed of optax transformations.

Every learning rate is a float or an optax schedule (step -> rate). All of them apply
momentum *before* the rate, as PyTorch does: a change of the rate rescales the whole
history.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

Rate = float | Callable[[jax.Array], jax.Array]


def ascend(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Turns a descending optimiser into one that ascends the payoff of its player.

    The sign of the gradient is changed first, so weight decay still shrinks weights.
    With `sgd` and a bank W whose ascent direction is G: v ← μ v − G + λ W; W ← W − η v,
    the update of the banks of AdCo and CaCo.
    """
    return optax.chain(optax.scale(-1.0), tx)


def sgd(
    learning_rate: Rate, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """Heavy-ball momentum with L2 in the gradient, as PyTorch's SGD.

    v ← μ v + g + λ p; p ← p − η v, for all parameters, including biases and BatchNorm,
    as in the papers' SGD recipes.

    Args:
        learning_rate: η, a float or a schedule.
        momentum: μ, in [0, 1).
        weight_decay: λ, at least 0.

    Returns:
        The transformation; its update needs the parameters.

    Raises:
        ValueError: the momentum or the decay is out of range.
    """
    _check(momentum=momentum, weight_decay=weight_decay)
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def lars(
    learning_rate: Rate,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1.5e-6,
    trust_coefficient: float = 0.001,
) -> optax.GradientTransformation:
    """CaCo's LARS: sgd with each matrix's step scaled to the length of the matrix.

    For parameters of two or more axes u = g + λ p, then u ← u·c‖p‖/‖u‖ unless one of
    the norms is zero; for vectors and scalars u = g, neither decayed nor scaled. Then
    v ← μ v + u; p ← p − η v. `optax.lars` differs: its momentum comes after the rate.

    A matrix of zeros takes its first step unscaled, with the raw gradient. A gradient
    of zeros gives u = c p, whatever the decay, as long as there is one.

    Args:
        learning_rate: η, a float or a schedule.
        momentum: μ, in [0, 1).
        weight_decay: λ, at least 0.
        trust_coefficient: c, above 0.

    Returns:
        The transformation; its update needs the parameters.

    Raises:
        ValueError: a hyper-parameter is out of range.

    References:
        You et al. 2017, arXiv:1708.03888; as CaCo applies it, arXiv:2203.14370.
    """
    _check(
        momentum=momentum,
        weight_decay=weight_decay,
        trust_coefficient=trust_coefficient,
    )
    decay_and_scale = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient),
    )
    return optax.chain(
        optax.masked(decay_and_scale, _is_matrix),
        optax.trace(momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def adam(
    learning_rate: Rate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam with L2 in the gradient, as PyTorch's Adam (not AdamW).

    Args:
        learning_rate: a float or a schedule.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: λ, at least 0; the moments are those of g + λ p.

    Returns:
        The transformation; its update needs the parameters.

    Raises:
        ValueError: a hyper-parameter is out of range.

    References:
        Kingma and Ba 2014, arXiv:1412.6980.
    """
    _check(weight_decay=weight_decay, b1=b1, b2=b2)
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.adam(learning_rate, b1=b1, b2=b2, eps=eps),
    )


def adamw(
    learning_rate: Rate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay: p ← p − η (m̂/(√v̂ + ε) + λ p), as PyTorch's.

    Vectors and scalars are not decayed, nor a ViT's class token and positions.

    Args:
        learning_rate: η, a float or a schedule.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: λ, at least 0; it does not enter the moments.

    Returns:
        The transformation; its update needs the parameters.

    Raises:
        ValueError: a hyper-parameter is out of range.

    References:
        Loshchilov and Hutter 2017, arXiv:1711.05101.
    """
    _check(weight_decay=weight_decay, b1=b1, b2=b2)
    return optax.adamw(
        learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
        mask=_is_decayed,
    )


def larc_sgd(
    learning_rate: Rate,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    trust_coefficient: float = 0.001,
    clip: bool = False,
) -> optax.GradientTransformation:
    """SGD under LARC, the optimiser of CaCo's linear probe.

    u = (g + λ p)·r with r = c‖p‖/(‖g‖ + λ‖p‖ + 1e-8), for every parameter, biases
    included; u = g where ‖p‖ or ‖g‖ is zero. Then v ← μ v + u; p ← p − η v. With
    `clip` r is the smaller of r/η and 1, so that no step is longer than plain SGD's.
    Unlike `lars`, the denominator adds the two norms.

    Args:
        learning_rate: η, a float or a schedule.
        momentum: μ, in [0, 1).
        weight_decay: λ, at least 0.
        trust_coefficient: c, above 0.
        clip: whether the plain step is the upper limit.

    Returns:
        The transformation; its update needs the parameters.

    Raises:
        ValueError: a hyper-parameter is out of range.

    References:
        NVIDIA Apex's LARC, after You et al. 2017, arXiv:1708.03888.
    """
    _check(
        momentum=momentum,
        weight_decay=weight_decay,
        trust_coefficient=trust_coefficient,
    )
    return optax.chain(
        _scale_by_larc(
            learning_rate if clip else None, weight_decay, trust_coefficient
        ),
        optax.trace(momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def ema_update(
    target: PyTree[Array], online: PyTree[Array], *, momentum: jax.typing.ArrayLike
) -> PyTree[Array]:
    """One step of the target network's exponential moving average: m t + (1 − m) o.

    Args:
        target: the average so far; its leaves keep their dtypes.
        online: a tree of the same structure and shapes.
        momentum: m in [0, 1], a number or a scalar array; 1 keeps the target.

    Returns:
        The new target.

    Raises:
        ValueError: the trees differ in structure.

    References:
        He et al. 2020, arXiv:1911.05722, eq. 2.
    """

    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.asarray(momentum * old + (1 - momentum) * new, old.dtype)

    return jax.tree.map(average, target, online)


def _scale_by_larc(
    ceiling: Rate | None, weight_decay: float, trust_coefficient: float
) -> optax.GradientTransformation:
    """Weight decay and LARC's scaling; optax's trust ratio divides by ‖g + λ p‖."""

    def init(params: optax.Params) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(
        updates: optax.Updates,
        state: optax.ScaleByScheduleState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.ScaleByScheduleState]:
        if params is None:
            raise ValueError("larc_sgd: params: expected the parameters, got None")
        rate = ceiling(state.count) if callable(ceiling) else ceiling

        def scale(grad: jax.Array, param: jax.Array) -> jax.Array:
            length, slope = jnp.linalg.norm(param), jnp.linalg.norm(grad)
            local = trust_coefficient * length
            local /= slope + weight_decay * length + 1e-8
            if rate is not None:  # with a rate of zero nothing moves
                local = jnp.minimum(local / jnp.maximum(rate, 1e-30), 1.0)
            scaled = (grad + weight_decay * param) * local.astype(grad.dtype)
            return jnp.where((length > 0) & (slope > 0), scaled, grad)

        state = optax.ScaleByScheduleState(count=state.count + 1)
        return jax.tree.map(scale, updates, params), state

    return optax.GradientTransformation(init, update)


def _is_matrix(params: optax.Params) -> PyTree[bool]:
    return jax.tree.map(lambda param: jnp.ndim(param) > 1, params)


def _is_decayed(params: optax.Params) -> PyTree[bool]:
    """Mask of decayed parameters: matrices, without class token and positions."""

    def decayed(path: tuple[Any, ...], param: jax.Array) -> bool:
        name = getattr(path[-1], "key", None) if path else None
        return jnp.ndim(param) > 1 and name not in ("cls_token", "pos_embed")

    return jax.tree_util.tree_map_with_path(decayed, params)


def _check(
    *, weight_decay: float, trust_coefficient: float = 1.0, **decays: float
) -> None:
    for name, decay in decays.items():
        if not 0 <= decay < 1:
            raise ValueError(f"{name}: expected a number in [0, 1), got {decay}")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay: expected a number >= 0, got {weight_decay}")
    if not trust_coefficient > 0:
        raise ValueError(
            f"trust_coefficient: expected a number > 0, got {trust_coefficient}"
        )
