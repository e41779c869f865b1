"""The linear protocol of the ImageNet papers, with a search of its learning rate.

Heads with several settings train side by side on a frozen backbone, on augmented images
or on clean features that are computed once; the best one is chosen on training images
that no head has seen.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from caco_jax.data.labelled import ArrayPart, Part, choose_rows
from caco_jax.evaluation.features import FeaturesFn, ViewFeaturesFn, extract_features
from caco_jax.evaluation.heads import (
    Heads,
    HeadsState,
    Protocol,
    Setting,
    Sweep,
    head_hits,
    head_scores,
)
from caco_jax.nets.functions import Network

BATCH_ROWS = 256  # images in one batch of the network in evaluation


class Frozen(NamedTuple):
    """A frozen network.

    Attributes:
        network: its parameters and running statistics.
        view_features: its features of augmented images.
        center_features: its features of central crops.
    """

    network: Network
    view_features: ViewFeaturesFn
    center_features: FeaturesFn


class Swept(NamedTuple):
    """Trained heads.

    Attributes:
        settings: settings of each head.
        held_out: [H] accuracies on the held-out training images; None for a single
            setting.
        chosen: number of the best head.
        heads: all heads.
    """

    settings: list[Setting]
    held_out: Float[np.ndarray, " h"] | None
    chosen: int
    heads: Heads

    @property
    def best(self) -> Heads:
        """The chosen head alone."""
        return jax.tree.map(
            lambda leaf: leaf[self.chosen : self.chosen + 1], self.heads
        )


def fitted(protocol: Protocol, count: int) -> Protocol:
    """The protocol for so many images: learning rates scale with a smaller batch.

    Adam's rate is not scaled, because its steps do not grow with the gradient.

    References:
        Goyal et al. 2017, arXiv:1706.02677, the linear rule.
    """
    batch_size = min(protocol.batch_size, count)
    share = batch_size / protocol.batch_size if protocol.optimizer != "adam" else 1
    rates = tuple(rate * share for rate in protocol.learning_rates)
    return dataclasses.replace(protocol, batch_size=batch_size, learning_rates=rates)


def sweep_heads(
    frozen: Frozen,
    part: Part,
    protocol: Protocol,
    *,
    num_classes: int,
    held_out: float = 0.1,
    seed: int = 0,
    put: Callable[[Any], Any] = jax.device_put,
) -> Swept:
    """Trains a head for each setting of a protocol, and chooses one of them.

    Args:
        frozen: the backbone.
        part: the labelled training images.
        protocol: settings, with learning rates and weight decays to try; see `fitted`.
        num_classes: C.
        held_out: share of the images that is held out to choose by; unused for a single
            setting.
        seed: seed of the heads, the order, the crops and the held-out images.
        put: places the arrays of a batch on the devices.

    Raises:
        ValueError: the share leaves one of the two parts empty.
        FloatingPointError: every head diverged.
    """
    rows = np.arange(len(part))
    several = len(protocol.learning_rates) * len(protocol.weight_decays) > 1
    kept_back = rows[:0]
    if several:
        kept_back = choose_rows(part, share=held_out, seed=seed)
        rows = np.setdiff1d(rows, kept_back)
        if not len(rows):
            raise ValueError(
                f"held_out: expected images left to learn from, got {held_out}"
            )
    protocol = fitted(protocol, len(rows))
    settings, heads = train_heads(
        frozen, part, rows, protocol, num_classes=num_classes, seed=seed, put=put
    )
    if not several:
        return Swept(settings, None, 0, heads)
    found = head_accuracies(heads, part_features(frozen, part, kept_back))
    if np.isnan(found).all():
        raise FloatingPointError(
            f"all {len(found)} heads diverged; lower the learning rates"
        )
    return Swept(settings, found, int(np.nanargmax(found)), heads)


def train_heads(
    frozen: Frozen,
    part: Part,
    rows: Int[np.ndarray, " m"],
    protocol: Protocol,
    *,
    num_classes: int,
    seed: int,
    put: Callable[[Any], Any] = jax.device_put,
) -> tuple[list[Setting], Heads]:
    """Trains the heads of a protocol for all of its epochs; see `sweep_heads`.

    Args:
        frozen: the backbone.
        part: the images.
        rows: numbers of the training rows, at least a batch.
        protocol: settings of the training.
        num_classes: C.
        seed: seed of the heads, the order and the crops.
        put: places the arrays of a batch on the devices.
    """
    if not protocol.augment:
        frozen, part = as_features(frozen, part, rows)
        rows = np.arange(len(part))
    steps = len(rows) // protocol.batch_size
    sweep = Sweep(protocol, steps_per_epoch=steps)
    init_key, view_key = jax.random.split(jax.random.key(seed))
    step = make_step(sweep, frozen.view_features)
    state = losses = None
    with part.batches(
        rows, seed=seed, batch_size=protocol.batch_size, epochs=protocol.epochs
    ) as batches:
        for number, batch in enumerate(batches):
            pixels, labels = put(batch)
            inputs = (frozen.network, view_key, pixels)
            if state is None:
                shape = jax.eval_shape(frozen.view_features, *inputs)
                state = sweep.init(
                    init_key, features=shape.shape[1], num_classes=num_classes
                )
            jax.block_until_ready(losses)  # at most one batch is queued
            state, losses = step(state, number, *inputs, labels)
    assert state is not None, "expected rows for a batch"
    return sweep.settings, sweep.heads(state)


def make_step(sweep: Sweep, view_features: ViewFeaturesFn) -> Callable[..., Any]:
    """(state, number, network, key, pixels, labels) -> (state, losses), jitted.

    The state is donated.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def step(
        state: HeadsState,
        number: jax.Array,
        network: Network,
        key: jax.Array,
        pixels: Any,
        labels: jax.Array,
    ) -> tuple[HeadsState, jax.Array]:
        step_key = jax.random.fold_in(key, number)
        return sweep.step(state, view_features(network, step_key, pixels), labels)

    return step


def as_features(
    frozen: Frozen, part: Part, rows: Int[np.ndarray, " m"]
) -> tuple[Frozen, Part]:
    """The features of these rows as a part, and an identity network for them."""
    features, labels = zip(*part_features(frozen, part, rows), strict=True)
    hand_on = Frozen(
        frozen.network, lambda network, key, given: given, lambda network, given: given
    )
    return hand_on, ArrayPart(np.concatenate(features), np.concatenate(labels))


# Features and labels of some images, in pieces.
Pieces = Iterator[tuple[np.ndarray, np.ndarray]]


def part_features(
    frozen: Frozen, part: Part, rows: Int[np.ndarray, " m"] | None = None
) -> Pieces:
    """Features of central crops of a part, in pieces, with their labels."""
    for images, labels in part.centers(np.arange(len(part)) if rows is None else rows):
        features = extract_features(
            frozen.center_features,
            frozen.network,
            images,
            batch_size=BATCH_ROWS,
        )
        yield features, labels


def head_accuracies(heads: Heads, pieces: Pieces) -> Float[np.ndarray, " h"]:
    """Top-1 accuracy of each head; NaN for those that diverged."""
    counted = [
        (np.asarray(head_hits(heads, features, labels)), len(labels))
        for features, labels in pieces
    ]
    hits, counts = zip(*counted, strict=True)
    return np.sum(hits, axis=0) / sum(counts)


def collect_scores(head: Heads, pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
    """The scores [M, C] of one head, and the labels [M]."""
    found = [
        (np.asarray(head_scores(head, features))[:, 0], labels)
        for features, labels in pieces
    ]
    scores, labels = zip(*found, strict=True)
    return np.concatenate(scores), np.concatenate(labels)
