"""Training of two-layer ReLU networks as in α-CL's released set-up, many at once.

Inputs are mixtures of d orthogonal directions, one in each sample; the losses are
InfoNCE and the quadratic loss, with or without BatchNorm after the ReLU.

References: Tian 2022, arXiv:2201.12680, section 5.
"""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax import losses
from caco_jax.analysis import two_layer_relu
from caco_jax.analysis.covariance import covariances
from caco_jax.analysis.pairs import mixture_views
from caco_jax.analysis.two_layer_relu import TwoLayer
from caco_jax.losses.contrast import l2_normalize, matmul


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings of the training; the defaults are the released ones.

    Attributes:
        hidden: number of hidden units.
        loss: "infonce" or "quadratic" (every pair has the same weight).
        batch_norm: whether hidden units are normalised over the batch, after ReLU.
        outputs: units of the second layer.
        directions: number d of directions of the inputs.
        noise: standard deviation of the inputs' magnitudes.
        batch_size: new samples in one step.
        rate: of plain gradient descent.
        weight_decay: added to the gradient, times the weights.
        temperature: of InfoNCE.
    """

    hidden: int = 10
    loss: str = "infonce"
    batch_norm: bool = True
    outputs: int = 20
    directions: int = 10
    noise: float = 0.5
    batch_size: int = 128
    rate: float = 0.01
    weight_decay: float = 5e-3
    temperature: float = 0.1

    def __post_init__(self) -> None:
        for name in ("hidden", "outputs", "directions"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name}: expected at least 1, got {getattr(self, name)}"
                )
        if self.batch_size < 2:
            raise ValueError(
                "batch_size: expected at least 2 (one input has no negatives), got "
                f"{self.batch_size}"
            )
        if not self.temperature > 0:  # NaN fails this too
            raise ValueError(f"temperature: expected above 0, got {self.temperature}")
        if self.loss not in LOSSES:
            raise ValueError(
                f"loss: expected one of {', '.join(sorted(LOSSES))}, got {self.loss!r}"
            )


def _info_nce(z1: Array, z2: Array, temperature: float) -> Array:
    family = losses.FAMILIES["info_nce"](temperature=temperature)
    return losses.family_loss(z1, z2, family) / (temperature * len(z1))


def _quadratic(z1: Array, z2: Array, temperature: float) -> Array:
    del temperature  # every pair has the same weight
    pairs = len(z1) * (len(z1) - 1)
    return losses.family_loss(z1, z2, losses.FAMILIES["triplet_contrastive"]()) / pairs


LOSSES = {"infonce": _info_nce, "quadratic": _quadratic}


class Trained(NamedTuple):
    """Trained networks, and measurements at R steps of S seeds.

    Attributes:
        steps: [R] steps of the measurements.
        networks: the networks at the end.
        losses: [R, S] on a fixed batch.
        concentrations: [R, S].
        coverages: [R, S].
        ranks: [R, S] of the first layer.
        inter: [R, S] trace of C_inter, see `covariances`.
        intra: [R, S] trace of C_intra.
    """

    steps: np.ndarray
    networks: TwoLayer
    losses: Float[np.ndarray, "r s"]
    concentrations: Float[np.ndarray, "r s"]
    coverages: Float[np.ndarray, "r s"]
    ranks: np.ndarray
    inter: Float[np.ndarray, "r s"]
    intra: Float[np.ndarray, "r s"]


def outputs_of(
    network: TwoLayer, x: Float[Array, "n d"], *, batch_norm: bool
) -> Float[Array, "n o"]:
    """The network's outputs, not normalised."""
    hidden = jax.nn.relu(matmul(x, network.first.T))
    if batch_norm:
        mean = jnp.mean(hidden, axis=0, keepdims=True)
        variance = jnp.var(hidden, axis=0, keepdims=True)
        hidden = (hidden - mean) * lax.rsqrt(variance + 1e-5)
    return matmul(hidden, network.second.T)


def train(
    keys: PRNGKeyArray, setting: Setting, *, steps: int = 5000, records: int = 20
) -> Trained:
    """Trains one network for each key, all at once, by gradient descent.

    First-layer weights are kept at least 0 after every step.

    Args:
        keys: [S] random keys of initial weights and samples.
        setting: settings of the training.
        steps: number of training steps.
        records: number of measurements after the initial one.

    Raises:
        ValueError: fewer than one step or record.
    """
    if steps < 1 or records < 1:
        raise ValueError(
            f"expected at least one step and record, got {steps}, {records}"
        )
    starts, data = jnp.split(jax.vmap(jax.random.split)(keys), 2, axis=1)
    networks = jax.vmap(functools.partial(_trained_start, setting=setting))(
        starts[:, 0]
    )
    held = jax.random.key(0)  # all seeds are measured on one batch
    moments = np.unique(np.linspace(0, steps, records + 1).astype(int))
    seen = [_measure(networks, held, setting)]
    for before, after in itertools.pairwise(moments):
        span = (jnp.asarray(before), jnp.asarray(after))
        networks = _train_span(networks, data[:, 0], span, setting)
        seen.append(_measure(networks, held, setting))
    measured = {
        name: np.stack([np.asarray(row[name]) for row in seen]) for name in seen[0]
    }
    first = measured.pop("first")
    return Trained(
        steps=moments,
        networks=networks,
        ranks=np.stack([two_layer_relu.ranks(one) for one in first]),
        **measured,
    )


def _trained_start(key: PRNGKeyArray, *, setting: Setting) -> TwoLayer:
    keys = jax.random.split(key)
    dtype = jnp.result_type(float)
    first = jax.random.uniform(keys[0], (setting.hidden, setting.directions), dtype)
    second = jax.random.normal(keys[1], (setting.outputs, setting.hidden), dtype)
    return TwoLayer(first / setting.directions**0.5, second / setting.hidden**0.5)


def _views(key: PRNGKeyArray, setting: Setting) -> tuple[Array, Array]:
    return mixture_views(
        key,
        count=setting.batch_size,
        directions=setting.directions,
        noise=setting.noise,
    )


def _outputs(network: TwoLayer, views: tuple, setting: Setting) -> list[Array]:
    return [outputs_of(network, x, batch_norm=setting.batch_norm) for x in views]


def _loss(network: TwoLayer, views: tuple, setting: Setting) -> Array:
    z1, z2 = (l2_normalize(f) for f in _outputs(network, views, setting))
    return LOSSES[setting.loss](z1, z2, setting.temperature)


@functools.partial(jax.jit, static_argnames="setting")
def _train_span(
    networks: TwoLayer, keys: PRNGKeyArray, span: tuple, setting: Setting
) -> TwoLayer:
    """Steps span[0] to span[1] of all networks; samples are drawn by step number."""

    def move(step: Array, network: TwoLayer, key: PRNGKeyArray) -> TwoLayer:
        views = _views(jax.random.fold_in(key, step), setting)
        gradient = jax.grad(_loss)(network, views, setting)
        first, second = jax.tree.map(
            lambda w, g: w - setting.rate * (g + setting.weight_decay * w),
            network,
            gradient,
        )
        return TwoLayer(jax.nn.relu(first), second)

    def all_move(step: Array, networks: TwoLayer) -> TwoLayer:
        return jax.vmap(move, in_axes=(None, 0, 0))(step, networks, keys)

    first, last = span
    return lax.fori_loop(first, last, all_move, networks)


@functools.partial(jax.jit, static_argnames="setting")
def _measure(networks: TwoLayer, key: PRNGKeyArray, setting: Setting) -> dict[str, Any]:
    views = _views(key, setting)

    def one(network: TwoLayer) -> dict[str, Any]:
        outputs = _outputs(network, views, setting)
        inter, intra = covariances(*views, *outputs, temperature=setting.temperature)[
            "regular"
        ][2:]
        return {
            "first": network.first,
            "losses": _loss(network, views, setting),
            "concentrations": two_layer_relu.concentration(network.first),
            "coverages": two_layer_relu.coverage(network.first),
            "inter": jnp.trace(inter),
            "intra": jnp.trace(intra),
        }

    return jax.vmap(one)(networks)
