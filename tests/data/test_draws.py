"""What is drawn, 20,000 times, against its definition.

Each test rejects a true definition with probability `FALSE_ALARM` over the choice of
the seed, all of them together with less than 0.3 %. The seeds are fixed, so a test that
passes keeps passing until what is drawn changes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from caco_jax.data import augment, color
from experiments.benchmarks import pillow_views

DRAWS = 20_000
FALSE_ALARM = 1e-4


def draw_many(draw, seed=0):
    keys = jax.random.split(jax.random.key(seed), DRAWS)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(keys))


def assert_uniform(values, low, high):
    assert stats.kstest(values, "uniform", (low, high - low)).pvalue > FALSE_ALARM


CROPS = [  # height, width, area shares, aspects; the last never fits: it falls back
    (32, 32, (0.08, 1.0), (3 / 4, 4 / 3)),
    (375, 500, (0.2, 1.0), (3 / 4, 4 / 3)),
    (96, 96, (0.05, 0.14), (3 / 4, 4 / 3)),
    (30, 120, (0.2, 1.0), (3 / 4, 4 / 3)),
    (10, 100, (0.9, 1.0), (3 / 4, 4 / 3)),
]


@functools.cache
def crops(height, width, scale, aspect):
    draw = functools.partial(
        augment.draw_crop,
        height=height,
        width=width,
        scale_range=scale,
        aspect_range=aspect,
    )
    rng = np.random.default_rng(1)
    defined = [
        pillow_views.draw_crop(rng, height, width, scale, aspect) for _ in range(DRAWS)
    ]
    return draw_many(draw), np.array(defined)


@pytest.mark.parametrize("setting", CROPS)
def test_crop_area_and_aspect(setting):
    ours, defined = crops(*setting)
    for quantity in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
    ):
        test = stats.ks_2samp(quantity(ours), quantity(defined), method="asymp")
        assert test.pvalue > FALSE_ALARM


@pytest.mark.parametrize("setting", CROPS)
def test_crop_lies_anywhere_inside(setting):
    ours, _ = crops(*setting)
    height, width = setting[:2]
    spread = np.random.default_rng(2).random(DRAWS)  # makes whole numbers continuous
    for axis, size in enumerate((height, width)):
        start, length = ours[:, axis], ours[:, axis + 2]
        assert np.all((start >= 0) & (start + length <= size))
        if setting != CROPS[-1] and size == min(height, width):
            free = length < size  # the fallback of a wide image is central
            place = (start + spread) / (size - length + 1)
            assert_uniform(place[free], 0, 1)


def test_crop_that_never_fits_is_central():
    ours, defined = crops(*CROPS[-1])
    np.testing.assert_array_equal(ours, np.tile((0, 43, 10, 13), (DRAWS, 1)))
    np.testing.assert_array_equal(ours, defined)


def test_jitter_factors_and_orders():
    draw = functools.partial(
        augment.draw_jitter, brightness=0.4, contrast=0.8, saturation=1.5, hue_turns=0.1
    )
    drawn = draw_many(draw)
    assert_uniform(drawn.brightness, 0.6, 1.4)
    assert_uniform(drawn.contrast, 0.2, 1.8)
    assert_uniform(drawn.saturation, 0.0, 2.5)
    assert_uniform(drawn.hue_turns, -0.1, 0.1)
    number = np.all(drawn.order[:, None] == color.ORDERS[None], axis=2).argmax(axis=1)
    counts = np.bincount(number, minlength=24)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
    # Drawn independently of one another.
    for other in (drawn.contrast, drawn.saturation, drawn.hue_turns, number):
        assert stats.spearmanr(drawn.brightness, other).pvalue > FALSE_ALARM


IMAGE = np.array([0.1, 0.6, 0.9, 0.3, 0.5, 0.2], np.float32).reshape(1, 2, 3)
OPERATIONS = {
    "flip": augment.random_flip,
    "gray": augment.random_gray,
    "solarize": functools.partial(augment.random_solarize, threshold=0.5),
    "blur": functools.partial(augment.random_blur, sigma_range_pixels=(1.0, 2.0)),
    "jitter": functools.partial(
        augment.random_jitter, brightness=0.4, contrast=0.4, saturation=0.4, hue_turns=0
    ),
}


@functools.cache
def rates(name):
    """How many of the draws change the image, by the probability that they should."""

    def changed(key, probability):
        return jnp.any(OPERATIONS[name](key, IMAGE, probability=probability) != IMAGE)

    made = draw_many(lambda key: {p: changed(key, p) for p in (0.2, 0.8, 1.0)})
    return {probability: int(each.sum()) for probability, each in made.items()}


@pytest.mark.parametrize("probability", [0.2, 0.8])
@pytest.mark.parametrize("name", OPERATIONS)
def test_application_rate(name, probability):
    count = rates(name)[probability]
    assert stats.binomtest(count, DRAWS, probability).pvalue > FALSE_ALARM


@pytest.mark.parametrize("name", OPERATIONS)
def test_never_and_always(name):
    never = OPERATIONS[name](jax.random.key(0), jnp.asarray(IMAGE), probability=0.0)
    np.testing.assert_array_equal(never, IMAGE)
    assert rates(name)[1.0] == DRAWS


def test_blur_deviation():
    point = jnp.zeros((1, 9, 1)).at[0, 4, 0].set(1)
    blur = functools.partial(
        augment.random_blur, probability=1.0, sigma_range_pixels=(0.3, 2.0)
    )
    row = draw_many(lambda key: blur(key, point))[:, 0, :, 0].astype(np.float64)
    sigma = np.sqrt(-0.5 / np.log(row[:, 5] / row[:, 4]))
    assert_uniform(sigma, 0.3, 2.0)


def test_affine_shift_angle_and_scale():
    ramps = np.stack(np.meshgrid(np.arange(9), np.arange(9), indexing="ij"), axis=-1)
    affine = functools.partial(
        augment.random_affine,
        max_shift_pixels=1.5,
        max_rotation_degrees=30.0,
        scale_range=(0.8, 1.2),
    )
    # Each pixel of the ramps says from where it came.
    source = draw_many(lambda key: affine(key, jnp.asarray(ramps, jnp.float32)))
    shift = source[:, 4, 4] - 4
    down, across = (source[:, 5, 4] - source[:, 4, 4]).T
    assert_uniform(shift[:, 0], -1.5, 1.5)
    assert_uniform(shift[:, 1], -1.5, 1.5)
    assert_uniform(np.rad2deg(np.arctan2(across, down)), -30, 30)
    assert_uniform(1 / np.hypot(down, across), 0.8, 1.2)


def test_gamma_and_noise():
    half = jnp.full((1, 1, 1), 0.5)
    gamma = draw_many(lambda k: augment.random_gamma(k, half, gamma_range=(0.5, 3.0)))
    power = np.log(gamma.reshape(-1)) / np.log(0.5)
    assert_uniform(np.log(power), np.log(0.5), np.log(3.0))
    noisy = draw_many(lambda k: augment.random_noise(k, half, noise_std=0.1))
    normal = stats.kstest((noisy.reshape(-1) - 0.5) / 0.1, "norm")
    assert normal.pvalue > FALSE_ALARM
    assert noisy.min() >= 0
    assert noisy.max() <= 1


def test_a_wrong_definition_is_found():
    rng = np.random.default_rng(3)
    low, high = np.log(3 / 4), np.log(4 / 3)
    not_logarithmic = np.log(rng.uniform(3 / 4, 4 / 3, DRAWS))
    test = stats.kstest(not_logarithmic, "uniform", (low, high - low))
    assert test.pvalue < FALSE_ALARM
    rounded = np.floor(rng.uniform(0.6, 1.4, DRAWS) * 10) / 10
    assert stats.kstest(rounded, "uniform", (0.6, 0.8)).pvalue < FALSE_ALARM
    assert stats.binomtest(int(0.22 * DRAWS), DRAWS, 0.2).pvalue < FALSE_ALARM
