import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from caco_jax.data import geometry
from experiments.benchmarks import pillow_views
from tests.data.photos import as_array, assert_same_pixels, photos

blur = jax.jit(geometry.gaussian_blur)
crop_and_resize = jax.jit(geometry.crop_and_resize, static_argnames="size_pixels")
affine = jax.jit(geometry.affine_resample)

CROPS = [  # top, left, height, width; size: shrinking, growing, both, and whole
    ((5, 7, 50, 44), 24),
    ((0, 0, 64, 64), 32),
    ((3, 2, 20, 31), 32),
    ((10, 10, 7, 5), 48),
    ((1, 0, 61, 20), 32),
    ((63, 63, 1, 1), 8),
]


@pytest.mark.parametrize(("box", "size"), CROPS)
def test_crop_is_pillows(box, size):
    for photo in photos():
        ours = crop_and_resize(as_array(photo), jnp.array(box), size_pixels=size)
        assert_same_pixels(ours, pillow_views.crop_and_resize(photo, box, size))


def test_crop_of_the_right_size_moves_pixels_only():
    image = as_array(photos()[0])
    ours = crop_and_resize(image, jnp.array((9, 30, 24, 24)), size_pixels=24)
    np.testing.assert_allclose(ours, image[9:33, 30:54], atol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0])
def test_blur_is_near_pillows(sigma):
    for photo in photos():
        ours = blur(as_array(photo), jnp.float32(sigma))
        # Pillow's three box blurs are not a Gaussian, so rare pixels differ.
        pillow = pillow_views.blur(photo, sigma)
        assert_same_pixels(ours, pillow, mean_levels=2.0, rare_levels=12.0)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0, 9.0])
@pytest.mark.parametrize("shape", [(20, 33, 3), (12, 12, 1)])
def test_blur_is_a_gaussian(sigma, shape):
    image = np.random.default_rng(0).random(shape)
    reference = ndimage.gaussian_filter(
        image, sigma, mode="nearest", axes=(0, 1), radius=2 * max(shape)
    )
    with jax.enable_x64(True):
        ours = blur(image, jnp.float64(sigma))
        assert ours.dtype == jnp.float64
        # Beyond twice the axis our tail is cut; nothing of these sigmas is there.
        np.testing.assert_allclose(ours, reference, atol=1e-7 if sigma < 9 else 1e-2)
    rough = blur(image.astype(np.float32), jnp.float32(sigma))
    np.testing.assert_allclose(rough, ours, atol=1e-5)


@pytest.mark.parametrize("degrees", [0.0, 15.0, -40.0])
@pytest.mark.parametrize("scale", [0.8, 1.3])
def test_affine_is_bilinear_with_zeros_outside(degrees, scale):
    image = np.random.default_rng(1).random((11, 14, 2))
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix, shift = matrix / scale, np.array([1.3, -0.6])
    centre = (np.array(image.shape[:2]) - 1) / 2
    reference = np.stack(
        [
            ndimage.affine_transform(
                np.pad(image[..., c], 8),  # zeros fade in over a pixel, as ours do
                matrix,
                offset=centre + 8 + shift - matrix @ (centre + 8),
                order=1,
            )[8:-8, 8:-8]
            for c in range(2)
        ],
        axis=-1,
    )
    with jax.enable_x64(True):
        ours = affine(image, matrix, shift)
        assert ours.dtype == jnp.float64
        np.testing.assert_allclose(ours, reference, atol=1e-12)
    rough = affine(*(jnp.float32(x) for x in (image, matrix, shift)))
    np.testing.assert_allclose(rough, ours, atol=1e-5)
