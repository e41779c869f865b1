"""The augmentation of each method's published settings by name, and its computation.

Each function takes the settings that are changed most often; every other field of a
`PhotoView` can be given as well, and then holds for all views.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt8

from caco_jax.data.view_kinds import DigitView, PhotoView, PlainView, Views

# Mean and standard deviation of a training set's values, on the scale of [0, 1].
# CIFAR's deviations are those of the code of both CIFAR papers: means over the images.
DIGITS_MEAN, DIGITS_STD = (0.305,), (0.319,)
FASHION_MEAN, FASHION_STD = (0.286,), (0.353,)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalize(
    images: Float[Array, "*batch c"], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "*batch c"]:
    """Subtracts the mean and divides by the deviation of each channel."""
    shape = (1,) * (images.ndim - 1) + (-1,)
    offset = np.asarray(mean, images.dtype).reshape(shape)
    scale = np.asarray(std, images.dtype).reshape(shape)
    return (images - offset) / scale


# Examples [N, ...], or for each view the crops [N, h_v, w_v, C] that the host made.
Examples = Shaped[Array, "n *example"] | Sequence[UInt8[Array, "n h w c"]]
ViewsFn = Callable[[PRNGKeyArray, Examples], tuple[jax.Array, ...]]


def make_views(views: Views, *, dtype: Any = jnp.float32, parts: int = 1) -> ViewsFn:
    """Makes a function from a key and a batch of examples [N, ...] to their views.

    Row n of view v depends only on the key, on n and v, and on example n. So the values
    are the same on one device and on many, inside `jax.jit` and outside, and adding
    rows does not change the first rows.

    uint8 values are scaled to [0, 1] before the views get them; other examples are not
    changed. Instead of examples there may be a sequence of crops, uint8 [N, h_v, w_v,
    C] for each view: the views are then made by `finish`.

    Args:
        views: the views and their normalisation.
        dtype: dtype of views of bytes, and of all normalised values.
        parts: number of parts of the batch, which are made one after the other; it
            divides the batch. An accelerator keeps a part of few rows in its fast
            memory. Row i is in part i modulo `parts`, so that no row leaves its device.

    Returns:
        A pure function; view v of its tuple is [N, ...], normalised. It raises
        ValueError on examples with another number of channels than the mean, and on
        crops that are not one for each view.
    """
    # Equal views are compiled once and mapped over their keys.
    runs = [
        (view, [index for index, _ in run])
        for view, run in itertools.groupby(enumerate(views.views), lambda v: v[1])
    ]

    def of_rows(row_keys: Array, each: Sequence[Array], cropped: bool) -> list[Array]:
        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        made: list[jax.Array] = []
        for view, indices in runs:
            batch = jnp.stack([each[index] for index in indices])  # [V, N, ...]
            keys = jax.vmap(fold, in_axes=(0, None), out_axes=1)(
                row_keys, jnp.array(indices)
            )
            make = view.finish if cropped else view
            alike = jax.vmap(jax.vmap(make))(keys, _as_input(batch, dtype))
            made.extend(_normalized(alike, views, dtype))
        return made

    def of_batch(key: PRNGKeyArray, examples: Examples) -> tuple[jax.Array, ...]:
        cropped = isinstance(examples, Sequence)
        # As copies, because a matrix product is slow if one side has no axis V.
        each = list(examples) if cropped else [jnp.asarray(examples)] * len(views.views)
        _check_examples(each, views, cropped=cropped)
        rows = jnp.arange(each[0].shape[0])
        row_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)  # [N]
        if parts == 1:
            return tuple(of_rows(row_keys, each, cropped))

        def of_part(part: tuple[Array, list[Array]]) -> tuple[Array, ...]:
            return tuple(of_rows(*part, cropped))

        apart = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0),
            (row_keys, each),
        )
        return jax.tree.map(
            lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]),
            jax.lax.map(of_part, apart),
        )

    return of_batch


def _as_input(batch: jax.Array, dtype: Any) -> jax.Array:
    return batch.astype(dtype) / 255 if batch.dtype == jnp.uint8 else batch


def _normalized(made: jax.Array, views: Views, dtype: Any) -> jax.Array:
    if views.is_identity:
        return made
    floats = jnp.issubdtype(made.dtype, jnp.floating)
    return normalize(
        made if floats else made.astype(dtype), mean=views.mean, std=views.std
    )


def make_evaluation_view(views: Views) -> Callable[[Array], Array]:
    """Makes a function from a batch of examples to the unaugmented encoder input."""
    alone = dataclasses.replace(views, views=(views.evaluation,))
    make = make_views(alone)
    return lambda examples: make(jax.random.key(0), examples)[0]


def _check_examples(each: Sequence[jax.Array], views: Views, *, cropped: bool) -> None:
    if len(each) != len(views.views):
        raise ValueError(
            f"images: expected crops for {len(views.views)} views, got {len(each)}"
        )
    channels = len(views.mean)
    for examples in each:
        if cropped and (examples.dtype != jnp.uint8 or examples.ndim != 4):
            raise ValueError(
                "images: expected crops uint8 [N, H, W, C], got "
                f"{examples.dtype} {examples.shape}"
            )
        if channels not in (1, examples.shape[-1]):
            raise ValueError(
                f"images: expected {channels} channels, as in the views' mean, got "
                f"{examples.shape[-1]}"
            )


ADCO_CROPS = {  # size in pixels -> range of the crop's share of the area
    224: (0.2, 1.0),
    192: (0.172, 0.86),
    160: (0.143, 0.715),
    128: (0.114, 0.571),
    96: (0.086, 0.429),
}


def evaluation(
    *, mean: tuple[float, ...] = (0.5,), std: tuple[float, ...] = (0.5,)
) -> Views:
    """One view without augmentation: the normalised image."""
    return Views(views=(PlainView(),), mean=mean, std=std)


def digits(**changes: Any) -> Views:
    """Two equal views of a handwritten digit; the arguments are `DigitView`'s."""
    view = DigitView(**changes)
    return Views(views=(view, view), mean=DIGITS_MEAN, std=DIGITS_STD)


def _photos(*views: PhotoView) -> Views:
    return Views(views=views, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def moco_v2(**changes: Any) -> Views:
    """The two equal views of MoCo v2, which AdCo uses too (arXiv:2003.04297)."""
    view = PhotoView(**changes)
    return _photos(view, view)


def simclr(*, strength: float = 1.0, **changes: Any) -> Views:
    """The two equal views of SimCLR for ImageNet (arXiv:2002.05709, appendix A).

    Args:
        strength: factor of the colour jitter of 0.8, 0.8, 0.8 and 0.2; at most 2.5.
        **changes: fields of `PhotoView`.
    """
    jitter = dict.fromkeys(("brightness", "contrast", "saturation"), 0.8 * strength)
    jitter["hue_turns"] = 0.2 * strength
    view = PhotoView(**{"crop_scale": (0.08, 1.0), **jitter, **changes})
    return _photos(view, view)


def cifar(**changes: Any) -> Views:
    """The two equal views of SimCLR for CIFAR: half the jitter, no blur (appendix B.9).

    α-CL's CIFAR runs use the same (arXiv:2201.12680).
    """
    defaults = {"size_pixels": 32, "crop_scale": (0.08, 1.0), "blur_probability": 0.0}
    view = PhotoView(**{**defaults, **changes})
    return Views(views=(view, view), mean=CIFAR_MEAN, std=CIFAR_STD)


def small_gray(
    *,
    mean: tuple[float, ...] = FASHION_MEAN,
    std: tuple[float, ...] = FASHION_STD,
    **changes: Any,
) -> Views:
    """Two equal views of a small grey picture: crop, flip, grey levels, blur.

    The strengths are our own; mean and std are those of Fashion-MNIST. For digits and
    letters set flip_probability to 0: mirrored, they are other characters.

    Args:
        mean: mean of the pixels, on the scale of [0, 1].
        std: standard deviation of the pixels.
        **changes: fields of `PhotoView`.
    """
    defaults = {
        "size_pixels": 28,
        "crop_scale": (0.3, 1.0),
        "saturation": 0.0,
        "hue_turns": 0.0,
        "gray_probability": 0.0,
        "blur_sigma_pixels": (0.1, 1.0),
    }
    view = PhotoView(**{**defaults, **changes})
    return Views(views=(view, view), mean=mean, std=std)


def caco(**changes: Any) -> Views:
    """The two different views of CaCo (arXiv:2203.14370): always blur, or solarise."""
    blurred = PhotoView(**{"saturation": 0.2, "blur_probability": 1.0, **changes})
    solarized = dataclasses.replace(
        blurred,
        **{"blur_probability": 0.1, "solarize_probability": 0.2, **changes},
    )
    return _photos(blurred, solarized)


def caco_multicrop(
    *,
    size_pixels: int = 224,
    small_size_pixels: int = 96,
    small_crops: int = 6,
    **changes: Any,
) -> Views:
    """The multi-crop of CaCo: the key's view, a second large view, small views.

    The views differ in size and crop only and are otherwise those of MoCo v2: the
    released code has no asymmetry here.

    Args:
        size_pixels: size of the two large views.
        small_size_pixels: size of the small views.
        small_crops: number of small views.
        **changes: fields of `PhotoView`.
    """
    large = PhotoView(size_pixels=size_pixels, **{"crop_scale": (0.14, 1.0), **changes})
    small = PhotoView(
        **{**changes, "size_pixels": small_size_pixels, "crop_scale": (0.05, 0.14)}
    )
    return _photos(large, large, *[small] * small_crops)


def adco_multicrop(
    *,
    size_pixels: int = 224,
    crops: Mapping[int, tuple[float, float]] = ADCO_CROPS,
    **changes: Any,
) -> Views:
    """The multi-crop of AdCo: the key's view, then query views of decreasing size.

    Args:
        size_pixels: size of the key's view.
        crops: for each query view its size in pixels and its range of the area.
        **changes: fields of `PhotoView`.
    """
    key_view = PhotoView(size_pixels=size_pixels, **changes)
    queries = [
        PhotoView(**{**changes, "size_pixels": size, "crop_scale": scale})
        for size, scale in crops.items()
    ]
    return _photos(key_view, *queries)


VIEWS: Mapping[str, Callable[..., Views]] = {
    "adco_multicrop": adco_multicrop,
    "alpha_cl": cifar,
    "caco": caco,
    "caco_multicrop": caco_multicrop,
    "cifar": cifar,
    "digits": digits,
    "evaluation": evaluation,
    "moco_v2": moco_v2,
    "simclr": simclr,
    "small_gray": small_gray,
}
