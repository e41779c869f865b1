"""Encoding a batch in training: whole, in microbatches, or in shuffled order."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax.losses.contrast import l2_normalize
from caco_jax.methods.method import Encode, EncodeFn, Network, PyTree, View
from caco_jax.nets.functions import as_encoder


def make_encode(
    encoder: Any, *, gather: Callable[[PyTree], PyTree] | None = None
) -> Encode:
    """Makes the function from a view to unit embeddings, in train mode.

    Args:
        encoder: any form that `as_encoder` accepts.
        gather: gathers sharded parameters on every device.
    """
    functions = as_encoder(encoder)

    def encode(network: Network, view: View) -> tuple[Float[Array, "n d"], Network]:
        params = network.params if gather is None else gather(network.params)
        embeddings, after = functions.embed(
            Network(params, network.stats), view.images, train=True, branch=view.branch
        )
        # Running statistics carry no gradient. Without this, a norm that reads them in
        # the next pass would differentiate this pass again, to find a gradient of zero.
        stats = jax.lax.stop_gradient(after.stats)
        return l2_normalize(embeddings), Network(network.params, stats)

    return Encode(online=encode, target=encode)


def shuffle_rows(encode: EncodeFn, key: PRNGKeyArray) -> EncodeFn:
    """Shuffle-BN: encodes rows in a random order and restores the order of embeddings.

    If BatchNorm has groups of rows, a key then shares its statistics with other
    examples than its query does, so that they cannot leak which key is the positive.
    The order follows from `key` alone: it is the same on one device and on many.

    Args:
        encode: the encoder.
        key: random key of the permutation.

    References:
        He et al. 2020, arXiv:1911.05722, section 3.3.
    """

    def shuffled(network: Network, view: View) -> tuple[Float[Array, "n d"], Network]:
        order = jax.random.permutation(key, view.images.shape[0])
        moved = dataclasses.replace(view, images=view.images[order])
        embeddings, network = encode(network, moved)
        return embeddings[jnp.argsort(order)], network

    return shuffled


def spread_rows(encode: EncodeFn, sharding: NamedSharding) -> EncodeFn:
    """The encoder with its rows sharded over the devices, in whatever order they come.

    Without this, a permutation of rows leaves all of them on every device, each of
    which then encodes the whole batch.

    Args:
        encode: the encoder.
        sharding: of rows, over the first axis.
    """

    def spread(network: Network, view: View) -> tuple[Float[Array, "n d"], Network]:
        images = jax.lax.with_sharding_constraint(view.images, sharding)
        return encode(network, dataclasses.replace(view, images=images))

    return spread


def microbatched(
    encode: EncodeFn, count: int, *, group_size: int | None = None, unroll: bool
) -> EncodeFn:
    """Encodes the rows in parts, one after the other, to save memory (GradCache).

    The caller gets the embeddings of all rows, so the contrastive loss has all
    negatives. Nothing else of a part is kept: in the backward pass each part is encoded
    again, and the gradient of its embeddings is carried through it and added to that of
    the other parts. Only the activations of one part are in memory at a time.

    The result is that of the whole batch where BatchNorm has groups of rows and each
    part holds whole ones. Without groups the statistics are those of each part.

    Row i (or its group) goes to part i modulo `count`: each part then has rows of every
    device that the batch is sharded over, and no row moves between devices.

    Args:
        encode: the encoder.
        count: number of parts; 1 returns the encoder itself.
        group_size: rows that share statistics, see `BatchNorm`; they stay in one part.
        unroll: whether to unroll the loop, which is faster on CPUs.

    Raises:
        ValueError: (raised by the returned encoder) the rows do not divide into the
            parts.

    References:
        Gao et al. 2021, arXiv:2101.06983; here autodiff does it.
    """
    if count == 1:
        return encode
    encode_again = jax.checkpoint(encode)

    def encode_parts(network: Network, view: View) -> tuple[Array, Network]:
        def one(images: Array) -> tuple[Array, Array]:
            embeddings, after = encode_again(network, View(images, view.branch))
            return embeddings, after.stats

        parts = split_groups(view.images, count, group_size=group_size or 1)
        if unroll:
            found = [one(part) for part in parts]
            embeddings, stats = jax.tree.map(lambda *x: jnp.stack(x), *found)
        else:
            embeddings, stats = jax.lax.map(one, parts)
        # Each part has updated the same statistics; the mean over equal parts is the
        # batch's.
        stats = jax.tree.map(
            lambda old, new: old + (new - old[None]).mean(axis=0), network.stats, stats
        )
        rows = join_groups(embeddings, group_size=group_size or 1)
        return rows, Network(network.params, stats)

    return encode_parts


def split_groups(
    rows: Float[Array, "n *c"], count: int, *, group_size: int
) -> Float[Array, "count m *c"]:
    """Splits the rows into parts: each gets one of every `count` successive groups.

    Raises:
        ValueError: the rows do not divide evenly.
    """
    if len(rows) % (count * group_size):
        raise ValueError(
            f"expected a multiple of {count} parts of groups of {group_size} rows, got "
            f"{len(rows)} rows"
        )
    groups = rows.reshape(-1, count, group_size, *rows.shape[1:])
    return jnp.moveaxis(groups, 1, 0).reshape(count, -1, *rows.shape[1:])


def join_groups(
    parts: Float[Array, "count m *c"], *, group_size: int
) -> Float[Array, "n *c"]:
    """Inverse of `split_groups`."""
    rest = parts.shape[2:]
    groups = parts.reshape(len(parts), -1, group_size, *rest)
    return jnp.moveaxis(groups, 0, 1).reshape(-1, *rest)
