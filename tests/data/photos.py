"""Natural photographs that come with scikit-learn, small, and what close means."""

import functools

import numpy as np
from PIL import Image
from sklearn import datasets


@functools.cache
def photos() -> tuple[Image.Image, ...]:
    """Two photographs of 128×86 pixels and of 64×64."""
    china, flower = map(Image.fromarray, datasets.load_sample_images().images)
    return (
        china.resize((128, 86), Image.Resampling.BOX),
        flower.crop((100, 0, 500, 400)).resize((64, 64), Image.Resampling.BOX),
    )


def as_array(image: Image.Image, dtype=np.float32) -> np.ndarray:
    return np.asarray(image, dtype) / 255


def differences(ours, pillow: Image.Image) -> tuple[float, float]:
    """Mean and 99.9th percentile of the absolute difference, in grey levels of 255."""
    error = np.abs(np.asarray(ours, np.float64) * 255 - np.asarray(pillow, np.float64))
    return float(error.mean()), float(np.quantile(error, 0.999))


def assert_same_pixels(ours, pillow, *, mean_levels=1.0, rare_levels=4.0) -> None:
    mean, rare = differences(ours, pillow)
    assert mean <= mean_levels, f"mean difference {mean:.2f} levels of 255"
    assert rare <= rare_levels, f"99.9th percentile {rare:.2f} levels of 255"
