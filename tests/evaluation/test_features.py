"""Features in batches: all rows, each by itself, one compiled shape."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.evaluation.features import extract_features, make_features


class Backbone(nn.Module):
    """A dense layer and BatchNorm."""

    @nn.compact
    def features(self, images, *, train=False):
        hidden = nn.Dense(3, name="dense", use_bias=False)(
            images.reshape(len(images), -1)
        )
        return nn.BatchNorm(use_running_average=not train, name="norm")(hidden)


def halve(images):
    return images.astype(jnp.float32) / 2


def make_counted(module):
    """The compiled function, and the shapes that it was traced for."""
    shapes = []
    return make_features(
        module, lambda images: shapes.append(images.shape) or halve(images)
    ), shapes


IMAGES = np.random.default_rng(0).integers(0, 256, (11, 2, 2, 1), np.uint8)


@pytest.fixture(scope="module")
def encoder():
    """(module, its variables with statistics of their own, what it computes)."""
    module = Backbone()
    variables = module.init(jax.random.key(0), halve(IMAGES[:2]), method="features")
    norm = {"mean": jnp.asarray([1.0, -2.0, 30.0]), "var": jnp.asarray([4.0, 9.0, 1.0])}
    stats = {"norm": norm}
    params = variables["params"]
    hidden = IMAGES.reshape(11, 4) / 2 @ params["dense"]["kernel"]
    expected = (hidden - norm["mean"][None]) / np.sqrt(norm["var"] + 1e-5)[None]
    return module, params, stats, expected


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_every_row_comes_back_in_order_with_running_statistics(encoder, batch_size):
    module, params, stats, expected = encoder
    features, shapes = make_counted(module)
    found = extract_features(features, params, stats, IMAGES, batch_size=batch_size)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert shapes == [(batch_size, 2, 2, 1)]


def test_other_parameters_and_other_sets_compile_nothing(encoder):
    module, params, stats, expected = encoder
    features, shapes = make_counted(module)
    for count in (11, 3, 8):
        moved = {**params, "norm": {**params["norm"], "bias": jnp.full(3, 1.0 * count)}}
        images = IMAGES[:count]
        found = extract_features(features, moved, stats, images, batch_size=4)
        np.testing.assert_allclose(
            found, expected[:count] + count, rtol=1e-4, atol=1e-4
        )
    assert len(shapes) == 1


@pytest.mark.parametrize("count, batch_size", [(0, 4), (3, 0)])
def test_no_images_and_no_batch_are_refused(encoder, count, batch_size):
    module, params, stats, _ = encoder
    features = make_features(module, halve)
    with pytest.raises(ValueError) as caught:
        extract_features(features, params, stats, IMAGES[:count], batch_size=batch_size)
    assert str(caught.value) == (
        f"want at least one image and a batch of at least 1, got {count} images and a "
        f"batch of {batch_size}"
    )
