"""A run's checkpoints, networks and batches as plain arrays and functions."""

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from caco_jax.config.build import saved_pretraining
from caco_jax.data.dataset import ArrayDataset
from caco_jax.data.views import make_views
from caco_jax.evaluation.features import extract_features
from caco_jax.losses import l2_normalize
from caco_jax.methods.method import Network
from caco_jax.nets.encoder import Encoder
from caco_jax.nets.functions import EncoderFunctions, as_encoder
from caco_jax.runs.checkpoints import Checkpoints, Workdir
from caco_jax.runs.pretraining import Pretraining
from caco_jax.runs.run import require_checkpoints, restore_state
from caco_jax.schema import UserError
from caco_jax.training.state import TrainState

logger = logging.getLogger("caco_jax")
PyTree = Any
# parameters, normalised images [N, H, W, C] -> unit embeddings [N, D]
Embed = Callable[[PyTree, Array], Float[Array, "n d"]]


class Batch(NamedTuple):
    """Views of the same images.

    Attributes:
        views: for each view a normalised array [N, H, W, C].
        labels: [N] classes, or None without labels.
        rows: [N] row numbers of the images in the training set.
    """

    views: tuple[Float[Array, "n h w c"], ...]
    labels: Int[np.ndarray, " n"] | None
    rows: Int[np.ndarray, " n"]


class Memory(NamedTuple):
    """The bank or queue, whose rows are candidates beside the batch.

    Attributes:
        name: name of a player, or of the past keys that the method keeps.
        rows: [K, D], raw rows.
        ages: [K] steps since each row was written, for a queue; None for a bank.
    """

    name: str
    rows: Float[Array, "k d"]
    ages: Int[np.ndarray, " k"] | None


def saved_steps(files: Workdir) -> list[int]:
    """Steps of the undamaged checkpoints of a run, oldest first.

    Raises:
        UserError: there is none.
    """
    checkpoints = Checkpoints(files)
    checkpoints.require_whole()
    damages = {step: checkpoints.damage(step) for step in checkpoints.steps()}
    for step, damage in damages.items():
        if damage is not None:
            logger.warning("the checkpoint of step %d is left out: %s", step, damage)
    return [step for step, damage in damages.items() if damage is None]


def read_parts(workdir: str | os.PathLike) -> tuple[Workdir, Pretraining]:
    """The files and parts of a run, without a state.

    Raises:
        UserError: there is no run, it saved nothing yet, or its images are not in
            memory.
    """
    files = Workdir(workdir)
    pretraining = saved_pretraining(files)
    in_memory(pretraining)
    require_checkpoints(files)
    return files, pretraining


def in_memory(pretraining: Pretraining) -> ArrayDataset:
    """The images of a run, as arrays.

    Raises:
        UserError: they are streamed, because they do not fit in memory.
    """
    if not isinstance(pretraining.data, ArrayDataset):
        raise UserError(
            "--workdir: expected a run on images in memory, got "
            f"{pretraining.data.name}, whose images are streamed"
        )
    return pretraining.data


def read_state(files: Workdir, pretraining: Pretraining, *, step: int) -> TrainState:
    """The state of one checkpoint, as arrays on the host."""
    with Checkpoints(files) as checkpoints:
        return jax.device_get(restore_state(pretraining, checkpoints, step=step))


def read_states(files: Workdir, pretraining: Pretraining) -> Iterator[TrainState]:
    """The states of all kept checkpoints, oldest first, one at a time."""
    for step in saved_steps(files):
        yield read_state(files, pretraining, step=step)


def cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """Casts the floats of a tree to another precision, on the default device."""

    def one(leaf: Any) -> Array:
        leaf = np.asarray(leaf)
        floats = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, dtype if floats else leaf.dtype)

    return jax.tree.map(one, tree)


def draw_batch(
    pretraining: Pretraining,
    *,
    size: int,
    seed: int = 0,
    dtype: DTypeLike = jnp.float32,
) -> Batch:
    """Makes views of training images, sorted by class if they have labels.

    Args:
        pretraining: the run.
        size: number of images, at least 2: one image has no negatives.
        seed: chooses the images and draws the views.
        dtype: dtype of the views.

    Raises:
        ValueError: fewer than two images, or more than the set has.
    """
    images = in_memory(pretraining)
    count = len(images.train_examples)
    if not 2 <= size <= count:
        raise ValueError(
            f"expected 2 to {count} images (one image has no negatives), got {size}"
        )
    rows = np.random.default_rng(seed).permutation(count)[:size]
    labels = images.train_labels
    if labels is not None:
        rows = rows[np.argsort(labels[rows], kind="stable")]
        labels = labels[rows]
    views = jax.jit(make_views(pretraining.views, dtype=dtype))(
        jax.random.key(seed), jnp.asarray(images.train_examples[rows])
    )
    return Batch(views, labels, rows)


def make_embed(encoder: EncoderFunctions, stats: PyTree, *, dtype: DTypeLike) -> Embed:
    """The encoder in train mode, as a function of its parameters.

    Args:
        encoder: encoder of a run.
        stats: its BatchNorm statistics, which train mode does not read.
        dtype: dtype of the computation, if the parts of an `Encoder` have this field;
            else that of the parameters is used.
    """
    if isinstance(encoder.module, Encoder):
        parts = (encoder.module.backbone, encoder.module.projector)
        encoder = as_encoder(Encoder(*(_with_dtype(part, dtype) for part in parts)))
    fixed = cast(stats, dtype)

    def embed(params: PyTree, images: Array) -> Float[Array, "n d"]:
        rows, _ = encoder.embed(Network(params, fixed), images, train=True)
        return l2_normalize(rows)

    return embed


def _with_dtype(module: nn.Module, dtype: DTypeLike) -> nn.Module:
    return module.clone(dtype=dtype) if hasattr(module, "dtype") else module


def _evaluation_mode(encoder: EncoderFunctions) -> Callable[..., Float[Array, "n d"]]:
    def embed(network: Network, images: Array) -> Float[Array, "n d"]:
        rows, _ = encoder.embed(network, images, train=False)
        return l2_normalize(rows)

    return embed


def encode_pairs(
    pretraining: Pretraining, state: TrainState, batch: Batch
) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    """Queries of the first views and keys of the second, with running statistics.

    Keys are from the target encoder, or from the online encoder without one.
    """
    online = Network(state.players["encoder"], state.stats)
    networks = (online, online if state.target is None else state.target)

    embed = jax.jit(_evaluation_mode(pretraining.encoder))
    queries, keys = (
        embed(network, view)
        for network, view in zip(networks, batch.views[:2], strict=True)
    )
    return queries, keys


def make_readout(
    pretraining: Pretraining,
) -> Callable[[Network], Float[np.ndarray, "m d"]]:
    """Makes a function from a network to unit embeddings of all training images.

    As in evaluation: with running statistics and without augmentation.
    """
    preprocess = pretraining.evaluation_input()
    pixels = in_memory(pretraining).train_examples

    encode = _evaluation_mode(pretraining.encoder)

    @jax.jit
    def embed(network: Network, images: Array) -> Float[Array, "b d"]:
        return encode(network, preprocess(images))

    return lambda network: extract_features(embed, network, pixels)


def memory(pretraining: Pretraining, state: TrainState) -> Memory:
    """A state's bank or queue.

    Raises:
        UserError: its method has neither.
    """
    name = pretraining.method.memory
    if name is not None and name in state.players:
        return Memory(name, jnp.asarray(state.players[name]), None)
    if name is not None:
        rows = jnp.asarray(state.extra[name])
        symmetric = getattr(pretraining.method.settings, "symmetric", False)
        per_step = pretraining.training.batch_size * (2 if symmetric else 1)
        ages = queue_ages(
            len(rows), int(state.extra["next_row"]), rows_per_step=per_step
        )
        return Memory(name, rows, np.minimum(ages, int(state.step)))
    raise UserError(
        "--workdir: expected a run with a bank or a queue, got "
        f"{pretraining.method.name}, whose players are: "
        f"{', '.join(sorted(state.players))}; try AdCo, CaCo or MoCo"
    )


def queue_ages(
    size: int, next_row: int, *, rows_per_step: int
) -> Int[np.ndarray, " k"]:
    """Steps since each row of a FIFO queue was written; 0 for the newest.

    Args:
        size: rows K.
        next_row: the row that is written next, which is the oldest.
        rows_per_step: number of rows that a step writes.
    """
    rows_ago = (next_row - 1 - np.arange(size)) % size
    return rows_ago // rows_per_step
