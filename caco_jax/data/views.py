"""Recipes: which views of an image a method trains on.

A `View` is data, a frozen dataclass of what is drawn and how far, and callable on
(key, image). A `Recipe` lists the views in the order in which the method gets them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from caco_jax.data import augment

# Mean and deviation of the training part's values: of what is in [0, 1].
DIGITS_MEAN, DIGITS_STD = (0.305,), (0.319,)


class View(Protocol):
    """One view: a pure function of a key and an image [H, W, C] in [0, 1]."""

    def __call__(
        self, key: PRNGKeyArray, image: Float[Array, "h w c"]
    ) -> Float[Array, "h2 w2 c"]:
        """The image's view for this key, in [0, 1]."""


def _check(ok: bool, name: str, want: str, got: object) -> None:
    if not ok:
        raise ValueError(f"{name}: want {want}, got {got}")


def _check_range(
    name: str, values: tuple[float, float], low: float, high: float
) -> None:
    """Checks that a pair is ordered and lies within (low, high]."""
    good = len(values) == 2 and low < values[0] <= values[1] <= high
    want = f"two numbers (smallest, largest), each in ({low:g}, {high:g}]"
    _check(good, name, want, values)


@dataclass(frozen=True)
class PlainView:
    """The image as it is: for evaluation, and to see what a method does without."""

    def __call__(
        self, key: PRNGKeyArray, image: Float[Array, "h w c"]
    ) -> Float[Array, "h w c"]:
        """The image itself; the key is not used."""
        del key
        return image


@dataclass(frozen=True)
class DigitView:
    """A handwritten digit moved, slanted in grey level and made noisy.

    No flips and no large rotations: they would make another digit.

    Attributes:
        max_shift_pixels: each axis moves by up to this; of 16 pixels.
        max_rotation_degrees: to either side.
        scale_range: the content's size is multiplied by a draw from here.
        gamma_range: values are raised to a power from here, log-uniform.
        noise_std: of the noise added, on the scale of [0, 1].
    """

    max_shift_pixels: float = 2.0
    max_rotation_degrees: float = 15.0
    scale_range: tuple[float, float] = (0.8, 1.2)
    gamma_range: tuple[float, float] = (0.6, 1.6)
    noise_std: float = 0.1

    def __post_init__(self) -> None:
        shift, degrees = self.max_shift_pixels, self.max_rotation_degrees
        _check(0 <= shift < math.inf, "max_shift_pixels", "pixels >= 0", shift)
        _check(0 <= degrees <= 180, "max_rotation_degrees", "[0, 180]", degrees)
        _check_range("scale_range", self.scale_range, 0, 10)
        _check_range("gamma_range", self.gamma_range, 0, 10)
        _check(0 <= self.noise_std <= 1, "noise_std", "[0, 1]", self.noise_std)

    def __call__(
        self, key: PRNGKeyArray, image: Float[Array, "h w c"]
    ) -> Float[Array, "h w c"]:
        """One random view of the digit, of its own size."""
        affine_key, gamma_key, noise_key = jax.random.split(key, 3)
        image = augment.random_affine(
            affine_key,
            image,
            max_shift_pixels=self.max_shift_pixels,
            max_rotation_degrees=self.max_rotation_degrees,
            scale_range=self.scale_range,
        )
        image = augment.random_gamma(gamma_key, image, gamma_range=self.gamma_range)
        return augment.random_noise(noise_key, image, noise_std=self.noise_std)


@dataclass(frozen=True)
class Recipe:
    """The views that a method trains on, and how their values are normalised.

    Attributes:
        views: in the method's order: the first is the query's or key's, as the method
            says; in multi-crop the large views come before the small ones.
        mean: of each channel, on the scale of [0, 1]; one number serves all channels.
        std: likewise, above 0.
    """

    views: tuple[View, ...]
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        _check(len(self.views) > 0, "views", "at least one view", self.views)
        _check(len(self.mean) > 0, "mean", "a number for each channel", self.mean)
        same = len(self.std) == len(self.mean)
        _check(same, "std", f"{len(self.mean)} numbers, as in mean", self.std)
        _check(all(0 <= m <= 1 for m in self.mean), "mean", "in [0, 1]", self.mean)
        _check(all(0 < s <= 1 for s in self.std), "std", "in (0, 1]", self.std)


def normalize(
    images: Float[Array, "*batch c"], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "*batch c"]:
    """Subtracts the mean and divides by the deviation of each channel."""
    shape = (1,) * (images.ndim - 1) + (-1,)
    offset = np.asarray(mean, images.dtype).reshape(shape)
    scale = np.asarray(std, images.dtype).reshape(shape)
    return (images - offset) / scale


ViewsFn = Callable[[PRNGKeyArray, UInt8[Array, "n h w c"]], tuple[jax.Array, ...]]


def make_views(recipe: Recipe, *, dtype: type = jnp.float32) -> ViewsFn:
    """A function of (key, uint8 images [N, H, W, C]) that gives the recipe's views.

    Row n of view v depends on the key, on n and v and on image n alone. So the pixels
    are the same on one device and on many, inside `jax.jit` and outside, and a batch's
    first rows do not change when rows are added.

    Args:
        recipe: the views and their normalisation.
        dtype: of the views returned.

    Returns:
        A pure function; view v of its tuple is [N, h_v, w_v, C], normalised. It raises
        ValueError on images that are not uint8 [N, H, W, C].
    """

    def one_row(
        key: PRNGKeyArray, row: jax.Array, image: jax.Array
    ) -> tuple[jax.Array, ...]:
        key = jax.random.fold_in(key, row)
        pixels = image.astype(dtype) / 255
        return tuple(
            normalize(
                view(jax.random.fold_in(key, v), pixels),
                mean=recipe.mean,
                std=recipe.std,
            )
            for v, view in enumerate(recipe.views)
        )

    def views(
        key: PRNGKeyArray, images: UInt8[Array, "n h w c"]
    ) -> tuple[jax.Array, ...]:
        if images.dtype != jnp.uint8 or images.ndim != 4:
            raise ValueError(
                f"images: want uint8 [N, H, W, C], got {images.dtype} {images.shape}"
            )
        rows = jnp.arange(images.shape[0])
        return jax.vmap(one_row, in_axes=(None, 0, 0))(key, rows, images)

    return views


def evaluation(
    *, mean: tuple[float, ...] = (0.5,), std: tuple[float, ...] = (0.5,)
) -> Recipe:
    """One view: the image normalised, nothing else."""
    return Recipe(views=(PlainView(),), mean=mean, std=std)


def digits(**view_fields: float | tuple[float, float]) -> Recipe:
    """Two views alike of a handwritten digit; the arguments are `DigitView`'s."""
    view = DigitView(**view_fields)  # type: ignore[arg-type]
    return Recipe(views=(view, view), mean=DIGITS_MEAN, std=DIGITS_STD)


VIEWS: Mapping[str, Callable[..., Recipe]] = {
    "digits": digits,
    "evaluation": evaluation,
}
