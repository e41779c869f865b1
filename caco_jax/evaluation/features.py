"""Features of a frozen encoder, in batches of one compiled shape."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

# (params, stats, uint8 images [B, H, W, C]) -> features [B, F]
FeaturesFn = Callable[[Any, Any, Array], Float[Array, "b f"]]
# (params, stats, key, uint8 images or crops) -> features [B, F] of a view of each
ViewFeaturesFn = Callable[[Any, Any, PRNGKeyArray, Any], Float[Array, "b f"]]


def make_features(
    encoder: Any, preprocess: Callable[[Array], Float[Array, "b h w c"]]
) -> FeaturesFn:
    """The pooled backbone features with running statistics, as a compiled function.

    Args:
        encoder: a flax module with a method ``features(images, train=False)``.
        preprocess: uint8 images -> the encoder's input.
    """

    @jax.jit
    def features(params: Any, stats: Any, images: Array) -> Float[Array, "b f"]:
        variables = {"params": params, "batch_stats": stats}
        return encoder.apply(
            variables, preprocess(images), train=False, method="features"
        )

    return features


def make_view_features(
    encoder: Any, views: Callable[[PRNGKeyArray, Any], Sequence[Array]]
) -> ViewFeaturesFn:
    """The same features of an augmented view, as a pure function for the caller's jit.

    Args:
        encoder: as in `make_features`.
        views: (key, pixels) -> views of which the first is taken.
    """

    def features(
        params: Any, stats: Any, key: PRNGKeyArray, pixels: Any
    ) -> Float[Array, "b f"]:
        variables = {"params": params, "batch_stats": stats}
        (view, *_) = views(key, pixels)
        return encoder.apply(variables, view, train=False, method="features")

    return features


def extract_features(
    features: FeaturesFn,
    params: Any,
    stats: Any,
    images: UInt8[np.ndarray, "m h w c"],
    *,
    batch_size: int = 256,
) -> Float[np.ndarray, "m f"]:
    """Features of all images; the last batch is padded, so one shape is compiled.

    Args:
        features: from `make_features`.
        params: the encoder's parameters.
        stats: its running statistics.
        images: uint8 [M, H, W, C].
        batch_size: images at a time.

    Raises:
        ValueError: there are no images, or the batch size is below 1.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(
            f"want at least one image and a batch of at least 1, got {len(images)} "
            f"images and a batch of {batch_size}"
        )
    parts = []
    for first in range(0, len(images), batch_size):
        batch = images[first : first + batch_size]
        padding = [(0, batch_size - len(batch))] + [(0, 0)] * (images.ndim - 1)
        rows = features(params, stats, jnp.asarray(np.pad(batch, padding)))
        parts.append(np.asarray(rows)[: len(batch)])
    return np.concatenate(parts)
