"""Views of an example: frozen dataclasses that are callable on (key, image).

A `View` holds the settings of one random augmentation. `Views` lists them in the order
in which the method gets them.
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

    Images are [H, W, C] in [0, 1]. Other examples of type uint8 are scaled to [0, 1]
    too; examples of all other types are not changed.
    """

    def __call__(self, key: PRNGKeyArray, example: Array, /) -> Array:
        """The view of the example for this key; all views have one shape."""


def _require_ordered(view: Any, *names: str) -> None:
    """Checks that each named pair is (smallest, largest)."""
    for name in names:
        low, high = getattr(view, name)
        require(low <= high, f"{name}: expected (smallest, largest), got {(low, high)}")


@dataclasses.dataclass(frozen=True)
class PlainView:
    """The image without augmentation: for evaluation and for ablations."""

    def __call__(
        self, key: PRNGKeyArray, image: Float[Array, "h w c"]
    ) -> Float[Array, "h w c"]:
        """The image itself; the key is not used."""
        del key
        return image


@dataclasses.dataclass(frozen=True)
class DigitView:
    """A view of a handwritten digit: shift, rotation, scale, gamma, Gaussian noise.

    No flips and no large rotations: they would make another digit.
    """

    max_shift_pixels: float = setting(
        2.0,
        allowed=NON_NEGATIVE,
        doc="Largest random shift along each axis in pixels.",
    )
    max_rotation_degrees: float = setting(
        15.0,
        allowed=Range(low=0, high=180),
        doc="Largest random rotation in degrees, to either side.",
    )
    scale_range: tuple[float, float] = setting(
        (0.8, 1.2),
        allowed=POSITIVE,
        doc="Smallest and largest factor of the content's size, drawn uniformly.",
    )
    gamma_range: tuple[float, float] = setting(
        (0.6, 1.6),
        allowed=POSITIVE,
        doc="Smallest and largest gamma, the power of the grey values, drawn "
        "log-uniformly.",
    )
    noise_std: float = setting(
        0.1,
        allowed=FRACTION,
        doc="Standard deviation of added Gaussian noise, for values in [0, 1].",
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
    """A view of a photograph: crop, flip, colour jitter, grayscale, blur, solarise.

    Each number means the same as in torchvision; the defaults are those of MoCo v2. In
    grey images (one channel) only brightness and contrast can be jittered.
    """

    size_pixels: int = setting(
        224, allowed=COUNT, doc="Height and width of the view in pixels."
    )
    crop_scale: tuple[float, float] = setting(
        (0.2, 1.0),
        allowed=SHARE,
        doc="Smallest and largest share of the image's area that a random crop covers, "
        "drawn uniformly.",
    )
    crop_aspect: tuple[float, float] = setting(
        (3 / 4, 4 / 3),
        allowed=POSITIVE,
        doc="Smallest and largest width / height of a random crop, drawn "
        "log-uniformly.",
    )
    flip_probability: float = setting(
        0.5, allowed=FRACTION, doc="Probability of a horizontal flip."
    )
    jitter_probability: float = setting(
        0.8, allowed=FRACTION, doc="Probability of colour jitter."
    )
    brightness: float = setting(
        0.4,
        allowed=NON_NEGATIVE,
        doc="Strength b of brightness jitter: the factor is drawn from [max(0, 1 - b), "
        "1 + b].",
    )
    contrast: float = setting(
        0.4,
        allowed=NON_NEGATIVE,
        doc="Strength c of contrast jitter: the factor is drawn from [max(0, 1 - c), "
        "1 + c].",
    )
    saturation: float = setting(
        0.4,
        allowed=NON_NEGATIVE,
        doc="Strength s of saturation jitter: the factor is drawn from [max(0, 1 - s), "
        "1 + s].",
    )
    hue_turns: float = setting(
        0.1,
        allowed=Range(low=0, high=0.5),
        doc="Strength h of hue jitter: the shift is drawn from [-h, h] turns of the "
        "colour circle.",
    )
    gray_probability: float = setting(
        0.2, allowed=FRACTION, doc="Probability of conversion to grayscale."
    )
    blur_probability: float = setting(
        0.5, allowed=FRACTION, doc="Probability of a Gaussian blur."
    )
    blur_sigma_pixels: tuple[float, float] = setting(
        (0.1, 2.0),
        allowed=POSITIVE,
        doc="Smallest and largest standard deviation of the Gaussian blur in pixels, "
        "drawn uniformly.",
    )
    solarize_probability: float = setting(
        0.0, allowed=FRACTION, doc="Probability of solarisation."
    )
    solarize_threshold: float = setting(
        0.5,
        allowed=FRACTION,
        doc="Pixel value in [0, 1] from which solarisation inverts values.",
    )

    def __post_init__(self) -> None:
        validate(self)
        _require_ordered(self, "crop_scale", "crop_aspect", "blur_sigma_pixels")

    def __call__(
        self, key: PRNGKeyArray, image: Float[Array, "h w c"]
    ) -> Float[Array, "size_pixels size_pixels c"]:
        """One random view of the image, of the view's size."""
        crop_key, flip_key, color_key = jax.random.split(key, 3)
        # The distribution is that of flipping after the crop; XLA compiles this better.
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
        """The view of a crop that the host has made: every operation but the crop."""
        _, flip_key, color_key = jax.random.split(key, 3)
        crop = augment.random_flip(flip_key, crop, probability=self.flip_probability)
        return self.recolor(color_key, crop)

    def recolor(
        self, key: PRNGKeyArray, image: Float[Array, "h w c"]
    ) -> Float[Array, "h w c"]:
        """The operations after crop and flip: colours, blur, solarisation."""
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
        """Raises ConfigError where colours are changed that the images do not have."""
        jitters = self.jitter_probability > 0
        impossible = {
            "jitter_probability": jitters and channels not in (1, 3),
            "saturation": jitters and self.saturation > 0 and channels == 1,
            "hue_turns": jitters and self.hue_turns > 0 and channels == 1,
            "gray_probability": self.gray_probability > 0 and channels != 3,
        }
        names = ", ".join(name for name, found in impossible.items() if found)
        require(
            not names,
            f"{names}: expected 0 for images of {channels} channels; colours need 3",
        )


@dataclasses.dataclass(frozen=True)
class Views:
    """Views that a method trains on, and the normalisation of their values.

    Attributes:
        views: in the order of the method, which states which view is the query's; in
            multi-crop the large views come before the small ones.
        mean: of each channel, on the scale of the views; one number serves all
            channels. Images are in [0, 1] there.
        std: what each channel is divided by, above 0; mean 0 and deviation 1 leave
            values as they are.
        evaluation: the view of evaluation, which is not random.
    """

    views: tuple[View, ...]
    mean: tuple[float, ...] = setting(
        (0.5,), allowed=Range(), doc="Mean of each channel, subtracted from its values."
    )
    std: tuple[float, ...] = setting(
        (0.5,),
        allowed=POSITIVE,
        doc="Standard deviation of each channel, which its values are divided by.",
    )
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
        """Height and width of the largest `PhotoView`; 0 if there is none."""
        return max(self.photo_sizes, default=0)

    @property
    def are_photos(self) -> bool:
        """Whether the host can make the crops: all views are `PhotoView`s."""
        return len(self.photo_sizes) == len(self.views)

    @property
    def is_identity(self) -> bool:
        """Whether normalisation changes nothing: mean 0 and deviation 1."""
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    def resized(self, size_pixels: int) -> "Views":
        """The views scaled so that the largest one has this size.

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
    """Converts functions to `Views`.

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
    """Makes a view (key, example) of a function of an example."""

    @functools.wraps(view)
    def keyless(key: PRNGKeyArray, example: Array, /) -> Array:
        del key
        return view(example)

    return keyless
