"""Features of a frozen encoder, in batches of one compiled shape."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from caco_jax.nets.functions import Network, as_encoder

# (network, examples [B, ...]) -> features [B, F]
FeaturesFn = Callable[[Network, Array], Float[Array, "b f"]]
# (network, key, examples or crops) -> features [B, F] of one view of each
ViewFeaturesFn = Callable[[Network, PRNGKeyArray, Any], Float[Array, "b f"]]


def make_features(
    encoder: Any, preprocess: Callable[[Array], Array], *, kind: str = "backbone"
) -> FeaturesFn:
    """Makes the compiled function of features, with running statistics.

    Args:
        encoder: any form that `caco_jax.nets.as_encoder` accepts.
        preprocess: a batch of examples -> the encoder's input.
        kind: "backbone", or "embedding" for the output of the projector.
    """
    functions = as_encoder(encoder)
    compute = functions.embed if kind == "embedding" else functions.features

    @jax.jit
    def features(network: Network, examples: Array) -> Float[Array, "b f"]:
        return compute(network, preprocess(examples), train=False)[0]

    return features


def make_view_features(
    encoder: Any, views: Callable[[PRNGKeyArray, Any], Sequence[Array]]
) -> ViewFeaturesFn:
    """Makes the function of features of an augmented view, to be jitted by the caller.

    Args:
        encoder: as in `make_features`.
        views: (key, examples) -> views; the first one is used.
    """
    functions = as_encoder(encoder)

    def features(
        network: Network, key: PRNGKeyArray, examples: Any
    ) -> Float[Array, "b f"]:
        (view, *_) = views(key, examples)
        return functions.features(network, view)[0]

    return features


def extract_features(
    features: FeaturesFn,
    network: Network,
    images: Shaped[np.ndarray, "m *example"],
    *,
    batch_size: int = 256,
) -> Float[np.ndarray, "m f"]:
    """Features of all images; the last batch is padded, so one shape is compiled.

    Args:
        features: from `make_features`.
        network: the encoder's parameters and running statistics.
        images: [M, ...] examples.
        batch_size: images in one batch.

    Raises:
        ValueError: there are no images, or the batch size is below 1.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(
            f"expected at least one image and a batch of at least 1, got {len(images)} "
            f"images and a batch of {batch_size}"
        )
    parts = []
    for first in range(0, len(images), batch_size):
        batch = images[first : first + batch_size]
        padding = [(0, batch_size - len(batch))] + [(0, 0)] * (images.ndim - 1)
        rows = features(network, jnp.asarray(np.pad(batch, padding)))
        parts.append(np.asarray(rows)[: len(batch)])
    return np.concatenate(parts)
