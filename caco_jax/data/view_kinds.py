"""What a view is made of: frozen dataclasses that are callable on (key, image).

A `View` is data, what is drawn and how far. `Views` lists them in the order in which
the method gets them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax.data import augment
from caco_jax.schema import (
    COUNT,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    ConfigError,
    Range,
    require,
    setting,
    validate,
)

SHARE = Range(low=0, high=1, low_open=True)


class View(Protocol):
    """One view: a pure, traceable function of a key and an example.

    Images are [H, W, C] in [0, 1]; what else was of bytes is in [0, 1] too, and all
    other examples come as they are in the set.
    """

    def __call__(self, key: PRNGKeyArray, example: Array, /) -> Array:
        """The example's view for this key; of one shape for all examples."""


def _require_ordered(view: Any, *names: str) -> None:
    """Checks that each named pair is (smallest, largest)."""
    for name in names:
        low, high = getattr(view, name)
        require(low <= high, f"{name}: expected (smallest, largest), got {(low, high)}")


@dataclasses.dataclass(frozen=True)
class PlainView:
    """The image as it is: for evaluation, and to see what a method does without."""

    def __call__(
        self, key: PRNGKeyArray, image: Float[Array, "h w c"]
    ) -> Float[Array, "h w c"]:
        """The image itself; the key is not used."""
        del key
        return image


@dataclasses.dataclass(frozen=True)
class DigitView:
    """A handwritten digit moved, slanted in grey level and made noisy.

    No flips and no large rotations: they would make another digit.
    """

    max_shift_pixels: float = setting(
        2.0, allowed=NON_NEGATIVE, doc="each axis moves by up to this; of 16 pixels"
    )
    max_rotation_degrees: float = setting(
        15.0, allowed=Range(low=0, high=180), doc="to either side"
    )
    scale_range: tuple[float, float] = setting(
        (0.8, 1.2), allowed=POSITIVE, doc="multiplies the content's size; uniform"
    )
    gamma_range: tuple[float, float] = setting(
        (0.6, 1.6), allowed=POSITIVE, doc="power of the values; log-uniform"
    )
    noise_std: float = setting(
        0.1, allowed=FRACTION, doc="Gaussian noise added, on the scale of [0, 1]"
    )

    def __post_init__(self) -> None:
        validate(self)
        _require_ordered(self, "scale_range", "gamma_range")

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


@dataclasses.dataclass(frozen=True)
class PhotoView:
    """A photograph's view: crop, flip, colour jitter, grey, blur, solarise.

    The meaning of each number is torchvision's; the defaults are MoCo v2's. Of grey
    images, of one channel, brightness and contrast can be jittered.
    """

    size_pixels: int = setting(224, allowed=COUNT, doc="height and width of the view")
    crop_scale: tuple[float, float] = setting(
        (0.2, 1.0), allowed=SHARE, doc="the crop's share of the image's area; uniform"
    )
    crop_aspect: tuple[float, float] = setting(
        (3 / 4, 4 / 3), allowed=POSITIVE, doc="the crop's width/height; log-uniform"
    )
    flip_probability: float = setting(
        0.5, allowed=FRACTION, doc="of mirroring left and right"
    )
    jitter_probability: float = setting(
        0.8, allowed=FRACTION, doc="of changing the colours at all"
    )
    brightness: float = setting(
        0.4, allowed=NON_NEGATIVE, doc="factor in 1 plus or minus this, at least 0"
    )
    contrast: float = setting(0.4, allowed=NON_NEGATIVE, doc="likewise")
    saturation: float = setting(0.4, allowed=NON_NEGATIVE, doc="likewise")
    hue_turns: float = setting(
        0.1, allowed=Range(low=0, high=0.5), doc="largest turn of the colour circle"
    )
    gray_probability: float = setting(
        0.2, allowed=FRACTION, doc="of dropping the colours"
    )
    blur_probability: float = setting(0.5, allowed=FRACTION, doc="of a Gaussian blur")
    blur_sigma_pixels: tuple[float, float] = setting(
        (0.1, 2.0), allowed=POSITIVE, doc="the blur's standard deviation; uniform"
    )
    solarize_probability: float = setting(
        0.0, allowed=FRACTION, doc="of inverting the bright values"
    )
    solarize_threshold: float = setting(
        0.5, allowed=FRACTION, doc="values from here up are inverted; in [0, 1]"
    )

    def __post_init__(self) -> None:
        validate(self)
        _require_ordered(self, "crop_scale", "crop_aspect", "blur_sigma_pixels")

    def __call__(
        self, key: PRNGKeyArray, image: Float[Array, "h w c"]
    ) -> Float[Array, "size_pixels size_pixels c"]:
        """One random view of the image, of the view's size."""
        crop_key, flip_key, color_key = jax.random.split(key, 3)
        # Crops are as likely mirrored, and XLA compiles this order best.
        image = augment.random_flip(flip_key, image, probability=self.flip_probability)
        image = augment.random_resized_crop(
            crop_key,
            image,
            size_pixels=self.size_pixels,
            scale_range=self.crop_scale,
            aspect_range=self.crop_aspect,
        )
        return self.recolor(color_key, image)

    def finish(
        self, key: PRNGKeyArray, crop: Float[Array, "h w c"]
    ) -> Float[Array, "h w c"]:
        """The view of a crop that was made elsewhere: all but cropping."""
        _, flip_key, color_key = jax.random.split(key, 3)
        crop = augment.random_flip(flip_key, crop, probability=self.flip_probability)
        return self.recolor(color_key, crop)

    def recolor(
        self, key: PRNGKeyArray, image: Float[Array, "h w c"]
    ) -> Float[Array, "h w c"]:
        """All that comes after crop and flip."""
        self._check_channels(image.shape[2])
        keys = jax.random.split(key, 4)
        image = augment.random_jitter(
            keys[0],
            image,
            probability=self.jitter_probability,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            hue_turns=self.hue_turns,
        )
        image = augment.random_gray(keys[1], image, probability=self.gray_probability)
        image = augment.random_blur(
            keys[2],
            image,
            probability=self.blur_probability,
            sigma_range_pixels=self.blur_sigma_pixels,
        )
        return augment.random_solarize(
            keys[3],
            image,
            probability=self.solarize_probability,
            threshold=self.solarize_threshold,
        )

    def _check_channels(self, channels: int) -> None:
        """Raises ConfigError where colours shall change that images do not have."""
        jitters = self.jitter_probability > 0
        wanting = {
            "jitter_probability": jitters and channels not in (1, 3),
            "saturation": jitters and self.saturation > 0 and channels == 1,
            "hue_turns": jitters and self.hue_turns > 0 and channels == 1,
            "gray_probability": self.gray_probability > 0 and channels != 3,
        }
        names = ", ".join(name for name, wanted in wanting.items() if wanted)
        require(
            not names,
            f"{names}: expected 0 for images of {channels} channels; colours need 3",
        )


@dataclasses.dataclass(frozen=True)
class Views:
    """The views that a method trains on, and how their values are normalised.

    Attributes:
        views: in the method's order: the first is the query's or key's, as the method
            says; in multi-crop the large views come before the small ones.
        mean: of each channel, on the scale of the views; one number serves all
            channels. Images are in [0, 1] there.
        std: what each channel is divided by, above 0; mean 0 and deviation 1 leave
            values as they are.
        evaluation: the view that evaluation sees, which is not random.
    """

    views: tuple[View, ...]
    mean: tuple[float, ...] = setting((0.5,), allowed=Range(), doc="of each channel")
    std: tuple[float, ...] = setting((0.5,), allowed=POSITIVE, doc="of each channel")
    evaluation: View = PlainView()

    def __post_init__(self) -> None:
        validate(self)
        require(len(self.views) > 0, "views: expected at least one, got none")
        require(
            len(self.mean) > 0, "mean: expected a number for each channel, got none"
        )
        require(
            len(self.std) == len(self.mean),
            f"std: expected {len(self.mean)} numbers, as in mean, got {len(self.std)}",
        )

    @property
    def photo_sizes(self) -> list[int]:
        """Height and width of each of the views that are `PhotoView`s."""
        return [view.size_pixels for view in self.views if isinstance(view, PhotoView)]

    @property
    def largest_photo_pixels(self) -> int:
        """Height and width of the largest `PhotoView`; 0 where there is none."""
        return max(self.photo_sizes, default=0)

    @property
    def are_photos(self) -> bool:
        """Whether the host can make the crops: all are photographs' views."""
        return len(self.photo_sizes) == len(self.views)

    @property
    def is_identity(self) -> bool:
        """Whether values stay as the views made them."""
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    def resized(self, size_pixels: int) -> "Views":
        """The same with a largest view of this size, the others shrunk along.

        Raises:
            ConfigError: the views have the size of the images.
        """
        require(
            self.are_photos,
            "expected None, these views have the size of the images; got "
            f"{size_pixels}",
        )
        shrink = size_pixels / max(self.photo_sizes)
        smaller = (
            dataclasses.replace(
                view, size_pixels=max(round(view.size_pixels * shrink), 1)
            )
            for view in self.views
            if isinstance(view, PhotoView)
        )
        return dataclasses.replace(self, views=tuple(smaller))


def as_views(views: Any) -> Views:
    """Views in any form.

    Args:
        views: `Views`, or several functions (key, example) -> example, whose values
            are used as they come.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(views, Views):
        return views
    fitting = isinstance(views, tuple | list) and views and all(map(callable, views))
    if not fitting:
        raise ConfigError(
            "views: expected a sequence of functions (key, example) -> example, got "
            f"{getattr(views, '__qualname__', repr(views))}; write "
            "views=(my_view, my_view)"
        )
    return Views(tuple(views), mean=(0.0,), std=(1.0,))


def without_key(view: Callable[[Array], Array]) -> View:
    """A function of an example as a view, which takes a key, too."""

    @functools.wraps(view)
    def keyless(key: PRNGKeyArray, example: Array, /) -> Array:
        del key
        return view(example)

    return keyless
