"""Features in batches: all rows, each by itself, one compiled shape."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.evaluation.features import extract_features, make_features
from caco_jax.nets.functions import Network


class Backbone(nn.Module):
    """A dense layer and BatchNorm; a projector that evaluation leaves out."""

    def setup(self):
        self.dense = nn.Dense(3, use_bias=False)
        self.norm = nn.BatchNorm()
        self.projector = nn.Dense(2)

    def features(self, images, *, train=False):
        hidden = self.dense(images.reshape(len(images), -1))
        return self.norm(hidden, use_running_average=not train)

    def __call__(self, images, *, train=False):
        return self.projector(self.features(images, train=train))


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
    """(module, its network with statistics of its own, what it computes)."""
    module = Backbone()
    variables = module.init(jax.random.key(0), halve(IMAGES[:2]))
    norm = {"mean": jnp.asarray([1.0, -2.0, 30.0]), "var": jnp.asarray([4.0, 9.0, 1.0])}
    params = variables["params"]
    hidden = IMAGES.reshape(11, 4) / 2 @ params["dense"]["kernel"]
    expected = (hidden - norm["mean"][None]) / np.sqrt(norm["var"] + 1e-5)[None]
    return module, Network(params, {"norm": norm}), expected


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_every_row_comes_back_in_order_with_running_statistics(encoder, batch_size):
    module, network, expected = encoder
    features, shapes = make_counted(module)
    found = extract_features(features, network, IMAGES, batch_size=batch_size)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert shapes == [(batch_size, 2, 2, 1)]


def test_other_parameters_and_other_sets_compile_nothing(encoder):
    module, network, expected = encoder
    features, shapes = make_counted(module)
    for count in (11, 3, 8):
        norm = {**network.params["norm"], "bias": jnp.full(3, 1.0 * count)}
        moved = network._replace(params={**network.params, "norm": norm})
        images = IMAGES[:count]
        found = extract_features(features, moved, images, batch_size=4)
        np.testing.assert_allclose(
            found, expected[:count] + count, rtol=1e-4, atol=1e-4
        )
    assert len(shapes) == 1


@pytest.mark.parametrize("count, batch_size", [(0, 4), (3, 0)])
def test_no_images_and_no_batch_are_refused(encoder, count, batch_size):
    module, network, _ = encoder
    features = make_features(module, halve)
    with pytest.raises(ValueError) as caught:
        extract_features(features, network, IMAGES[:count], batch_size=batch_size)
    assert str(caught.value) == (
        f"expected at least one image and a batch of at least 1, got {count} images "
        f"and a batch of {batch_size}"
    )
