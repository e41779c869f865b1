"""The augmentation of photographs by Pillow, one image at a time, as in torchvision.

The reference of the benchmarks and the tests: bytes in, bytes out, rounded after each
operation.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from caco_jax.data.view_kinds import PhotoView

CROP_ATTEMPTS = 10
Box = tuple[int, int, int, int]


def draw_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale_range: tuple[float, float],
    aspect_range: tuple[float, float],
) -> Box:
    """Top, left, height and width of a random resized crop."""
    for _ in range(CROP_ATTEMPTS):
        area = height * width * rng.uniform(*scale_range)
        aspect = math.exp(rng.uniform(*np.log(aspect_range)))
        crop_width = round(math.sqrt(area * aspect))
        crop_height = round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(0, height - crop_height + 1))
            left = int(rng.integers(0, width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_height, crop_width = height, width
    if width / height < aspect_range[0]:
        crop_height = round(width / aspect_range[0])
    elif width / height > aspect_range[1]:
        crop_width = round(height * aspect_range[1])
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return top, left, crop_height, crop_width


def crop_and_resize(image: Image.Image, box: Box, size_pixels: int) -> Image.Image:
    """Cuts before resizing, so that no pixel outside of the box contributes."""
    top, left, height, width = box
    cut = image.crop((left, top, left + width, top + height))
    return cut.resize((size_pixels, size_pixels), Image.Resampling.BILINEAR)


def turn_hue(image: Image.Image, turns: float) -> Image.Image:
    """Adds to the hue's byte, which wraps around."""
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue, np.int32) + int(turns * 255)) % 256
    hue = Image.fromarray(turned.astype(np.uint8))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def jitter(
    image: Image.Image,
    order: Sequence[int],
    brightness: float,
    contrast: float,
    saturation: float,
    hue_turns: float,
) -> Image.Image:
    """Applies brightness 0, contrast 1, saturation 2 and hue 3 in the given order."""
    for operation in order:
        if operation == 0:
            image = ImageEnhance.Brightness(image).enhance(brightness)
        elif operation == 1:
            image = ImageEnhance.Contrast(image).enhance(contrast)
        elif operation == 2:
            image = ImageEnhance.Color(image).enhance(saturation)
        else:
            image = turn_hue(image, hue_turns)
    return image


def to_gray(image: Image.Image) -> Image.Image:
    """Grey, still with three channels."""
    return image.convert("L").convert("RGB")


def blur(image: Image.Image, sigma_pixels: float) -> Image.Image:
    """Pillow's approximation of a Gaussian by three box blurs."""
    return image.filter(ImageFilter.GaussianBlur(sigma_pixels))


def solarize(image: Image.Image, threshold: float) -> Image.Image:
    """Inverts the bytes at or above the threshold, which is on the scale of [0, 1]."""
    return ImageOps.solarize(image, math.ceil(threshold * 255))


def random_view(
    rng: np.random.Generator,
    image: Image.Image,
    view: PhotoView,
    mean: np.ndarray,
    std: np.ndarray,
) -> np.ndarray:
    """One random view, normalised: float32 [size, size, 3]."""

    def factor(strength: float) -> float:
        return rng.uniform(max(0.0, 1 - strength), 1 + strength)

    box = draw_crop(rng, image.height, image.width, view.crop_scale, view.crop_aspect)
    image = crop_and_resize(image, box, view.size_pixels)
    if rng.random() < view.flip_probability:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < view.jitter_probability:
        image = jitter(
            image,
            rng.permutation(4).tolist(),
            factor(view.brightness),
            factor(view.contrast),
            factor(view.saturation),
            rng.uniform(-view.hue_turns, view.hue_turns),
        )
    if rng.random() < view.gray_probability:
        image = to_gray(image)
    if rng.random() < view.blur_probability:
        image = blur(image, rng.uniform(*view.blur_sigma_pixels))
    if rng.random() < view.solarize_probability:
        image = solarize(image, view.solarize_threshold)
    return (np.asarray(image, np.float32) / 255 - mean) / std
