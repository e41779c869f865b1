"""Fine-tuning of a pretrained network on labels, optionally with frozen layers."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from caco_jax.data.labelled import Part
from caco_jax.evaluation.heads import INITIAL_DEVIATION, Heads
from caco_jax.evaluation.plans import FineTuning
from caco_jax.nets.functions import EncoderFunctions, Network, as_encoder
from caco_jax.optim import optimizers, schedules

_BLOCK = "blocks_"  # prefix of the blocks of a ViT, before their number


class Tuned(NamedTuple):
    """A fine-tuned network with its classifier.

    Attributes:
        network: the encoder's parameters and running statistics.
        head: one head, on features without standardisation.
        losses: [S], loss of each step.
    """

    network: Network
    head: Heads
    losses: Float[np.ndarray, " s"]


def layer_names(params: Any) -> list[str]:
    """The layers of a backbone that may be frozen."""
    return sorted(set(params.get("backbone", params)) - {"projector"})


def fine_tune(
    encoder: Any,
    views: Callable[..., Sequence[Array]],
    network: Network,
    part: Part,
    rows: Int[np.ndarray, " m"],
    plan: FineTuning,
    *,
    num_classes: int,
    seed: int = 0,
    put: Callable[[Any], Any] = jax.device_put,
) -> Tuned:
    """Fine-tunes a network with a new linear head on labelled rows.

    Args:
        encoder: any form that `caco_jax.nets.as_encoder` accepts.
        views: (key, pixels) -> views; the first one is used.
        network: the encoder's parameters and running statistics.
        part: labelled images.
        rows: numbers of the rows to train on; fewer than a batch make a smaller batch.
        plan: settings of the fine-tuning.
        num_classes: C.
        seed: seed of the head, the order and the views.
        put: places the arrays of a batch on the devices.

    Raises:
        ValueError: there is no such layer to freeze, or layer_decay is set for a
            network without blocks.
    """
    known = layer_names(network.params)
    strangers = [name for name in plan.frozen if name not in known]
    if strangers:
        raise ValueError(
            f"frozen: expected some of {', '.join(known)}, got {', '.join(strangers)}"
        )
    batch_size = min(plan.batch_size, len(rows))
    blocks = sum(name.startswith(_BLOCK) for name in known)
    if plan.layer_decay != 1 and not blocks:
        raise ValueError(
            f"layer_decay: expected 1 for a network without a ViT's blocks, got "
            f"{plan.layer_decay:g}"
        )
    optimizer = _optimizer(plan, steps_per_epoch=len(rows) // batch_size, blocks=blocks)
    head_key, view_key = jax.random.split(jax.random.key(seed))
    functions = as_encoder(encoder)
    step = _make_step(functions, views, optimizer, train=not plan.frozen_statistics)
    state = None
    losses: list[jax.Array] = []
    with part.batches(
        rows, seed=seed, batch_size=batch_size, epochs=plan.epochs
    ) as batches:
        for number, batch in enumerate(batches):
            pixels, labels = put(batch)
            if state is None:
                width = _width(functions, views, network, pixels)
                head = _new_head(head_key, num_classes, width)
                # Copies, because the step donates its arguments.
                trained = {"encoder": network.params, "head": head}
                trained, stats = jax.tree.map(jnp.copy, (trained, network.stats))
                state = (trained, stats, optimizer.init(trained))
            jax.block_until_ready(losses[-1:])  # at most one batch is queued
            key = jax.random.fold_in(view_key, number)
            state, loss = step(state, key, pixels, labels)
            losses.append(loss)
    assert state is not None, "expected rows to learn from"
    trained, stats, _ = state
    found = np.asarray(jax.device_get(losses))
    return Tuned(Network(trained["encoder"], stats), trained["head"], found)


def _new_head(key: PRNGKeyArray, num_classes: int, width: int) -> Heads:
    weights = INITIAL_DEVIATION * jax.random.normal(key, (1, num_classes, width))
    return Heads(weights, jnp.zeros((1, num_classes)))


def _width(encoder: EncoderFunctions, views: Any, network: Network, pixels: Any) -> int:
    def features(network: Network, key: Any, pixels: Any) -> jax.Array:
        return encoder.features(network, views(key, pixels)[0])[0]

    return jax.eval_shape(features, network, jax.random.key(0), pixels).shape[1]


def _optimizer(
    plan: FineTuning, *, steps_per_epoch: int, blocks: int
) -> optax.GradientTransformation:
    def sgd(rate: float) -> optax.GradientTransformation:
        schedule = schedules.cosine(
            rate, 0.0, epochs=plan.epochs, steps_per_epoch=steps_per_epoch
        )
        return optimizers.sgd(
            schedule, momentum=plan.momentum, weight_decay=plan.weight_decay
        )

    def groups(trained: Any) -> Any:
        def group(path: tuple[Any, ...], _: Any) -> str:
            names = [str(getattr(entry, "key", "")) for entry in path]
            if names[0] == "head":
                return "head"
            # The projector gets no gradient: it is not fine-tuned.
            still = "projector" in names or set(names) & set(plan.frozen)
            return "still" if still else f"depth {_depth(names, blocks)}"

        return jax.tree_util.tree_map_with_path(group, trained)

    by_depth = {
        f"depth {depth}": sgd(plan.backbone_rate * plan.layer_decay ** (blocks - depth))
        for depth in range(blocks + 1)
    }
    still = optax.set_to_zero()
    return optax.partition(
        {"head": sgd(plan.head_rate), "still": still, **by_depth}, groups
    )


def _depth(names: list[str], blocks: int) -> int:
    """Depth of a parameter: 0 before a ViT's blocks, then the number of its block.

    Parameters after the last block have its depth. A network without blocks has one
    depth.
    """
    for name in names:
        if name.startswith(_BLOCK):
            return int(name.removeprefix(_BLOCK)) + 1
    return blocks if "norm" in names else 0


def _make_step(
    encoder: EncoderFunctions,
    views: Callable[..., Sequence[Array]],
    optimizer: optax.GradientTransformation,
    *,
    train: bool,
) -> Callable[..., Any]:
    """(state, key, pixels, labels) -> (state, loss), jitted; the state is donated."""

    def loss(
        trained: Any, stats: Any, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Any]:
        network = Network(trained["encoder"], stats)
        features, network = encoder.features(network, images, train=train)
        weights, bias = trained["head"].weights[0], trained["head"].bias[0]
        scores = jnp.einsum("nf,cf->nc", features, weights) + bias[None]
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        return losses.mean(), network.stats

    @functools.partial(jax.jit, donate_argnums=0)
    def step(
        state: tuple[Any, Any, Any], key: jax.Array, pixels: Any, labels: jax.Array
    ) -> tuple[tuple[Any, Any, Any], jax.Array]:
        trained, stats, opt_state = state
        (view, *_) = views(key, pixels)
        (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(
            trained, stats, view, labels
        )
        updates, opt_state = optimizer.update(gradients, opt_state, trained)
        return (optax.apply_updates(trained, updates), stats, opt_state), value

    return step
