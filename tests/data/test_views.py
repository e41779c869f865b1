import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.data import views
from caco_jax.data.view_kinds import DigitView, PhotoView, PlainView, Views
from caco_jax.schema import ConfigError
from caco_jax.training.sharding import make_mesh, rows
from tests.data.photos import photos

KEY = jax.random.key(3)
EVERYTHING = PhotoView(size_pixels=12, solarize_probability=0.3)
RECIPES = {
    "digits": views.digits(),
    "photos": Views((EVERYTHING,), views.IMAGENET_MEAN, views.IMAGENET_STD),
}
AS_THEY_ARE = {"mean": (0.0,), "std": (1.0,)}


def images(count, channels, size=16):
    shape = (count, size, size, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def patches(count, size=16):
    """Pieces of a photograph, uint8 [count, size, size, 3]."""
    photo = np.asarray(photos()[0])
    corners = np.random.default_rng(1).integers(0, 128, (count, 2))
    corners %= (86 - size, 128 - size)
    return np.stack([photo[y : y + size, x : x + size] for y, x in corners])


@pytest.fixture(scope="module")
def compiled():
    return {name: jax.jit(views.make_views(recipe)) for name, recipe in RECIPES.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_same_pixels_on_one_device_and_on_eight(name, compiled, devices):
    batch = images(16, len(RECIPES[name].mean))
    one = compiled[name](KEY, jax.device_put(batch, devices[0]))
    eight = compiled[name](KEY, jax.device_put(batch, rows(make_mesh(devices))))
    for alone, spread in zip(one, eight, strict=True):
        assert len(spread.sharding.device_set) == 8
        np.testing.assert_allclose(spread, alone, atol=2e-5)


@pytest.mark.parametrize(
    "name", ["digits", pytest.param("photos", marks=pytest.mark.slow)]
)
def test_same_pixels_under_jit_or_not(name, compiled):
    batch = images(16, len(RECIPES[name].mean))
    plain = views.make_views(RECIPES[name])(KEY, jnp.asarray(batch))
    for eager, jitted in zip(plain, compiled[name](KEY, batch), strict=True):
        np.testing.assert_allclose(eager, jitted, atol=2e-5)


def test_a_row_depends_on_its_number_and_its_image_alone(compiled):
    batch = images(16, 1)
    changed = np.where(np.arange(16).reshape(-1, 1, 1, 1) == 5, 255 - batch, batch)
    shorter = compiled["digits"](KEY, batch[:4])
    whole = compiled["digits"](KEY, batch)
    other = compiled["digits"](KEY, changed)
    for few, all_rows, one_changed in zip(shorter, whole, other, strict=True):
        np.testing.assert_allclose(few, all_rows[:4], atol=2e-5)
        same = np.isclose(one_changed, all_rows, atol=2e-5).all(axis=(1, 2, 3))
        assert not same[5]
        assert same.sum() == 15


def test_rows_views_and_keys_draw_independently(compiled):
    batch = np.repeat(images(1, 1), 16, axis=0)  # one image sixteen times
    first, second = compiled["digits"](KEY, batch)
    other, _ = compiled["digits"](jax.random.key(4), batch)
    made = np.concatenate([first, second, other]).reshape(48, -1)
    apart = np.abs(made[:, None] - made[None]).mean(axis=2) + np.eye(48)
    assert apart.min() > 0.01


def test_evaluation_normalizes_and_nothing_else():
    batch = images(2, 3)
    recipe = views.evaluation(mean=views.CIFAR_MEAN, std=views.CIFAR_STD)
    (made,) = jax.jit(views.make_views(recipe))(KEY, batch)
    expected = (batch / 255 - np.array(views.CIFAR_MEAN)) / np.array(views.CIFAR_STD)
    assert made.dtype == jnp.float32
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_a_plain_photo_view_is_the_image():
    off = {
        field.name: 0.0
        for field in dataclasses.fields(PhotoView)
        if field.name.endswith("_probability")
    }
    view = PhotoView(size_pixels=16, crop_scale=(1.0, 1.0), crop_aspect=(1, 1), **off)
    batch = images(3, 3)
    (made,) = jax.jit(views.make_views(Views((view,), **AS_THEY_ARE)))(KEY, batch)
    np.testing.assert_allclose(made, batch / 255, atol=1e-6)


def test_crops_made_elsewhere_get_the_rest_of_the_view():
    # A crop of everything: so the views of the images are those of them as crops.
    whole = {"crop_scale": (1.0, 1.0), "crop_aspect": (1.0, 1.0)}
    view = dataclasses.replace(EVERYTHING, size_pixels=16, **whole)
    make = views.make_views(Views((view, view), (0.4,), (0.3,)))
    batch = patches(8)
    from_images = jax.jit(make)(KEY, batch)
    from_crops = jax.jit(make)(KEY, (batch, batch[::-1]))
    np.testing.assert_allclose(from_crops[0], from_images[0], atol=2e-5)
    swapped = jax.jit(make)(KEY, batch[::-1])
    np.testing.assert_allclose(from_crops[1], swapped[1], atol=2e-5)


def test_views_are_the_same_in_parts(devices):
    recipe = Views((EVERYTHING, EVERYTHING), (0.4,), (0.3,))
    batch = jax.device_put(patches(32), rows(make_mesh(devices)))
    whole = jax.jit(views.make_views(recipe))(KEY, batch)
    parts = jax.jit(views.make_views(recipe, parts=4))
    assert "all-to-all" not in parts.lower(KEY, batch).compile().as_text()
    for one, other in zip(whole, parts(KEY, batch), strict=True):
        assert len(other.sharding.device_set) == 8
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_float64_is_kept(name):
    with jax.enable_x64(True):
        make = views.make_views(RECIPES[name], dtype=jnp.float64)
        made = jax.eval_shape(make, KEY, images(2, len(RECIPES[name].mean)))
        assert {view.dtype for view in made} == {jnp.dtype(jnp.float64)}


SIZES = {
    "adco_multicrop": [224, 224, 192, 160, 128, 96],
    "alpha_cl": [32, 32],
    "caco": [224, 224],
    "caco_multicrop": [224, 224] + [96] * 6,
    "cifar": [32, 32],
    "moco_v2": [224, 224],
    "simclr": [224, 224],
    "small_gray": [28, 28],
}


GREY = ("digits", "small_gray")


@pytest.mark.parametrize("name", views.VIEWS)
def test_sizes_of_every_recipe(name):
    batch = jax.ShapeDtypeStruct((4, 40, 50, 1 if name in GREY else 3), jnp.uint8)
    made = jax.eval_shape(views.make_views(views.VIEWS[name]()), KEY, batch)
    shapes = [(4, size, size, batch.shape[3]) for size in SIZES.get(name, [])]
    same_size = {"digits": [batch.shape] * 2, "evaluation": [batch.shape]}
    assert [view.shape for view in made] == same_size.get(name, shapes)
    assert all(view.dtype == jnp.float32 for view in made)


def test_numbers_of_the_published_recipes():
    first, second = views.caco().views
    assert (first.brightness, first.contrast) == (0.4, 0.4)
    assert (first.saturation, first.hue_turns) == (0.2, 0.1)
    assert (first.blur_probability, first.solarize_probability) == (1.0, 0.0)
    assert (second.blur_probability, second.solarize_probability) == (0.1, 0.2)
    assert first.crop_scale == second.crop_scale == (0.2, 1.0)
    _, large, *small = views.caco_multicrop().views
    assert large.crop_scale == (0.14, 1.0)
    assert {view.crop_scale for view in small} == {(0.05, 0.14)}
    strong = views.simclr().views[0]
    assert (strong.brightness, strong.hue_turns) == (0.8, 0.2)
    assert strong.crop_scale == (0.08, 1.0)
    half = views.cifar().views[0]
    assert (half.brightness, half.hue_turns) == (0.4, 0.1)
    assert half.blur_probability == 0.0
    key_view, *queries = views.adco_multicrop().views
    assert key_view.crop_scale == (0.2, 1.0)
    assert [view.crop_scale[0] for view in queries] == [
        0.2,
        0.172,
        0.143,
        0.114,
        0.086,
    ]


def test_solarize_is_seen_in_the_second_view_of_caco_only():
    bright = np.full((64, 16, 16, 3), 250, np.uint8)
    recipe = views.caco(size_pixels=12, jitter_probability=0.0)
    first, second = jax.jit(views.make_views(recipe))(KEY, bright)
    shade = np.asarray(second).mean(axis=(1, 2, 3))
    assert np.ptp(np.asarray(first)) < 1.0  # the channels' means alone differ
    assert 3 <= np.sum(shade < 0) <= 25  # a fifth of 64; 1e-3 to be outside


def test_small_grey_pictures_are_cropped_mirrored_jittered_and_blurred():
    still = {
        "size_pixels": 16,
        "crop_scale": (1.0, 1.0),
        "crop_aspect": (1.0, 1.0),
        "flip_probability": 0.0,
        "jitter_probability": 0.0,
        "blur_probability": 0.0,
        "mean": (0.0,),
        "std": (1.0,),
    }
    batch = images(8, 1)

    def made(**changes):
        make = views.make_views(views.small_gray(**{**still, **changes}))
        return np.asarray(jax.jit(make)(KEY, batch)[0])

    plain = batch / np.float32(255)
    np.testing.assert_allclose(made(), plain, atol=1e-6)
    np.testing.assert_allclose(made(flip_probability=1.0), plain[:, :, ::-1], atol=1e-6)
    assert made(blur_probability=1.0, blur_sigma_pixels=(2.0, 2.0)).std() < plain.std()
    shade = made(jitter_probability=1.0, contrast=0.0).mean(axis=(1, 2, 3))
    assert np.ptp(shade / plain.mean(axis=(1, 2, 3))) > 0.2
    assert np.abs(made(crop_scale=(0.3, 0.3)) - plain).max() > 0.1
    scaled = made(mean=(0.25,), std=(0.5,))
    np.testing.assert_allclose(scaled, (plain - 0.25) / 0.5, atol=1e-6)


def test_views_stay_in_range():
    view = views.simclr(size_pixels=12, strength=2.5).views[0]
    (made,) = jax.jit(views.make_views(Views((view,), **AS_THEY_ARE)))(KEY, patches(32))
    assert np.all(np.isfinite(made))
    assert made.min() >= -1e-6
    assert made.max() <= 1 + 1e-6


REFUSED = [
    (PhotoView, {"size_pixels": 0}, r"size_pixels: expected a number in \[1, "),
    (PhotoView, {"size_pixels": 32.5}, "size_pixels: expected int"),
    (
        PhotoView,
        {"crop_scale": (0.0, 1.0)},
        r"crop_scale: expected a number in \(0, 1\]",
    ),
    (
        PhotoView,
        {"crop_scale": (0.9, 0.5)},
        r"crop_scale: expected \(smallest, largest\)",
    ),
    (PhotoView, {"crop_scale": 0.5}, r"crop_scale: expected tuple\[float, float\]"),
    (PhotoView, {"crop_aspect": (0.0, 1.0)}, "crop_aspect: expected a number in"),
    (PhotoView, {"flip_probability": 1.2}, "flip_probability: expected a number in"),
    (PhotoView, {"brightness": -0.1}, r"brightness: expected a number in \[0, inf\)"),
    (PhotoView, {"hue_turns": 0.6}, r"hue_turns: expected a number in \[0, 0.5\]"),
    (PhotoView, {"blur_sigma_pixels": (0.0, 2.0)}, r"blur_sigma_pixels: .* \(0, inf\)"),
    (
        PhotoView,
        {"solarize_threshold": 128},
        "solarize_threshold: expected a number in",
    ),
    (DigitView, {"max_shift_pixels": -1.0}, "max_shift_pixels: expected a number in"),
    (DigitView, {"max_rotation_degrees": 200.0}, r"max_rotation_degrees: .*\[0, 180\]"),
    (DigitView, {"gamma_range": (2.0, 1.0)}, r"gamma_range: expected \(smallest"),
    (DigitView, {"noise_std": 2.0}, r"noise_std: expected a number in \[0, 1\]"),
    (Views, {"views": ()}, "views: expected at least one"),
    (Views, {"views": (PlainView(),), "mean": ()}, "mean: expected a number for each"),
    (
        Views,
        {"views": (PlainView(),), "mean": (math.nan,)},
        r"mean: expected a number in",
    ),
    (Views, {"views": (PlainView(),), "std": (0.0,)}, r"std: expected a number in \(0"),
    (Views, {"views": (PlainView(),), "std": (0.5, 0.5)}, "std: expected 1 numbers"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), REFUSED)
def test_bad_numbers_are_refused_by_name(kind, fields, message):
    with pytest.raises(ConfigError, match=message):
        kind(**fields)


def shapes(recipe, examples):
    """What would be made; nothing is compiled."""
    return jax.eval_shape(views.make_views(recipe), KEY, examples)


def zeros(*shape, dtype=jnp.uint8):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_bad_images_are_refused():
    recipe = views.cifar()
    with pytest.raises(
        ValueError, match="expected 3 channels, as in the views' mean, got"
    ):
        shapes(recipe, zeros(2, 8, 8, 1))
    with pytest.raises(ValueError, match="images: expected crops for 2 views, got 1"):
        shapes(recipe, (zeros(2, 8, 8, 3),))
    with pytest.raises(
        ValueError, match=r"expected crops uint8 \[N, H, W, C\], got float"
    ):
        shapes(recipe, (zeros(2, 8, 8, 3, dtype=jnp.float32),) * 2)
    in_color = (
        "^saturation, hue_turns, gray_probability: expected 0 for images of 1 chan"
    )
    with pytest.raises(ValueError, match=in_color):
        shapes(Views(recipe.views), zeros(2, 8, 8, 1))
    with pytest.raises(
        ValueError, match=r"^jitter_probability, gray_probability: expected"
    ):
        shapes(Views(recipe.views), zeros(2, 8, 8, 2))
    with pytest.raises(
        ValueError, match=r"^hue_turns: expected 0 for images of 1 channels"
    ):
        shapes(views.small_gray(hue_turns=0.1), zeros(2, 8, 8, 1))
    with pytest.raises(
        ValueError, match="expected 2 channels, as in the views' mean, got"
    ):
        shapes(Views((PlainView(),), (0.0, 0.0), (1.0, 1.0)), zeros(4, 3, dtype=float))
