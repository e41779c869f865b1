import itertools

import dm_pix as pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.data import color
from experiments.benchmarks import pillow_views
from tests.data.photos import as_array, assert_same_pixels, differences, photos

jitter = jax.jit(color.jitter)
ORDERS = list(itertools.permutations(range(4)))
IDENTITY = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue_turns": 0.0}


def changes(order=(0, 1, 2, 3), dtype=np.float32, **factors):
    factors = {name: dtype(value) for name, value in (IDENTITY | factors).items()}
    return color.Jitter(jnp.asarray(order), **factors)


ENHANCEMENTS = {  # name of the factor: its number in an order
    "brightness": color.BRIGHTNESS,
    "contrast": color.CONTRAST,
    "saturation": color.SATURATION,
}


def by_pillow(photo, name, factor):
    return pillow_views.jitter(
        photo, [ENHANCEMENTS[name]], **(IDENTITY | {name: factor})
    )


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.6, 1.0, 1.4, 1.8])
@pytest.mark.parametrize("name", ENHANCEMENTS)
def test_enhancement_is_pillows(name, factor):
    for photo in photos():
        ours = jitter(as_array(photo), changes(**{name: factor}))
        assert_same_pixels(ours, by_pillow(photo, name, factor))


@pytest.mark.parametrize("turns", [-0.5, -0.2, -0.1, -0.05, 0.05, 0.1, 0.25, 0.45])
def test_hue_is_pillows(turns):
    in_bytes = int(turns * 255) / 256  # the turn that Pillow's bytes can express
    # From RGB to bytes of HSV and back, not turned, Pillow alters the saturated
    # flower by 4.0 levels at the 99.9th percentile.
    for photo, rare_levels in zip(photos(), (4.0, 4.5), strict=True):
        ours = jitter(as_array(photo), changes(hue_turns=in_bytes))
        pillow = pillow_views.turn_hue(photo, turns)
        assert_same_pixels(ours, pillow, rare_levels=rare_levels)


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_is_pillows(order):
    factors = {"brightness": 0.7, "contrast": 1.5, "saturation": 0.6}
    photo = photos()[1]
    ours = jitter(as_array(photo), changes(order, **factors, hue_turns=17 / 256))
    pillow = pillow_views.jitter(photo, order, **factors, hue_turns=17.5 / 255)
    # Four roundings down on Pillow's side, where one operation's test has one.
    assert_same_pixels(ours, pillow, mean_levels=1.5, rare_levels=6.0)


def test_the_order_matters_as_much_as_it_should():
    image = as_array(photos()[1])
    factors = {"brightness": 1.6, "contrast": 1.5, "saturation": 0.6, "hue_turns": 0.2}
    made = [np.asarray(jitter(image, changes(order, **factors))) for order in ORDERS]
    pairs = itertools.combinations(made, 2)
    apart = [np.abs(one - other).max() for one, other in pairs]
    assert min(apart) > 1e-3  # no two of the 24 are one


def test_changing_nothing_changes_nothing():
    image = as_array(photos()[0])
    np.testing.assert_allclose(jitter(image, changes()), image, atol=2e-6)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 2, 0), (1, 3, 0, 2)])
def test_grey_images_have_brightness_and_contrast_alone(order):
    grey = np.asarray(as_array(photos()[1]))[..., :1]
    expected = grey
    for kind in order:
        if kind == color.BRIGHTNESS:
            expected = np.clip(0.7 * expected, 0, 1)
        if kind == color.CONTRAST:
            expected = np.clip(1.5 * expected - 0.5 * expected.mean(), 0, 1)
    changed = changes(
        order, brightness=0.7, contrast=1.5, saturation=0.3, hue_turns=0.2
    )
    np.testing.assert_allclose(jitter(grey, changed), expected, atol=1e-5)


def test_jitter_keeps_float64():
    with jax.enable_x64(True):
        image = as_array(photos()[1], np.float64)
        exact = jitter(image, changes(dtype=np.float64, contrast=0.5, hue_turns=0.1))
        assert exact.dtype == jnp.float64
    rough = jitter(image.astype(np.float32), changes(contrast=0.5, hue_turns=0.1))
    np.testing.assert_allclose(rough, exact, atol=1e-5)


def test_gray_is_pillows():
    for photo in photos():
        assert_same_pixels(color.to_gray(as_array(photo)), pillow_views.to_gray(photo))


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.9])
def test_solarize_is_pillows(threshold):
    for photo in photos():
        ours = color.solarize(as_array(photo), threshold=threshold)
        pillow = pillow_views.solarize(photo, threshold)
        assert_same_pixels(ours, pillow, mean_levels=0.1)


def test_what_dm_pix_means_otherwise():
    # Why these three are ours: dm-pix's are outside of the tolerance.
    photo = photos()[1]
    image = as_array(photo)
    theirs = {
        "brightness": pix.adjust_brightness(image, 0.4 - 1),
        "contrast": pix.adjust_contrast(image, 0.4),
        "saturation": pix.adjust_saturation(image, 0.4),
    }
    for name, made in theirs.items():
        mean, _ = differences(jnp.clip(made, 0, 1), by_pillow(photo, name, 0.4))
        assert mean > 2, name
