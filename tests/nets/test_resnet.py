"""Shapes, structure and options of the ResNets; the goldens check their numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.nets import (
    RESNETS,
    BatchNorm,
    Encoder,
    ResNet,
    caco_projector,
    resnet8,
    resnet18,
    resnet50,
    resnet_tiny,
)

# Parameters of torchvision's networks without their last layer.
PARAMETERS = {"resnet18": 11_176_512, "resnet34": 21_284_672, "resnet50": 23_508_032}


def _shapes(network, images):
    return jax.eval_shape(
        functools.partial(network.init, train=False), jax.random.key(0), images
    )


@functools.partial(jax.jit, static_argnums=0)
def _init(network, images):
    return network.init(jax.random.key(0), images, train=False)


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(network, variables, images):
    return network.apply(variables, images, train=False)


def _images(*shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_torchvisions(name):
    variables = _shapes(RESNETS[name](), jnp.zeros((1, 64, 64, 3)))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == PARAMETERS[name]


def test_parameters_of_resnet8_counted_by_hand():
    w = 32  # kernels, then scale and bias of each norm
    stem = 9 * w + 2 * w
    first = 2 * 9 * w * w + 2 * 2 * w
    second, third = (10 * (n // 2) * n + 9 * n * n + 3 * 2 * n for n in (2 * w, 4 * w))
    variables = _shapes(resnet8(), jnp.zeros((1, 16, 16, 1)))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == stem + first + second + third == 306_784


@pytest.mark.parametrize(
    "network, image, features",
    [
        (resnet_tiny(), (16, 16, 1), 64),
        (resnet8(), (16, 16, 1), 128),
        (resnet18(stem="small"), (32, 32, 3), 512),
        (resnet50(), (65, 33, 3), 2048),
        (ResNet(stage_sizes=(1,), width=8), (7, 7, 2), 8),
        (ResNet(stage_sizes=(1,) * 5, width=4, block="bottleneck"), (64, 64, 3), 256),
    ],
)
def test_feature_shapes(network, image, features):
    images = jnp.zeros((2, *image))
    variables = _shapes(network, images)
    apply = functools.partial(network.apply, train=False)
    assert jax.eval_shape(apply, variables, images).shape == (2, features)


def _spatial_shapes(network, images):
    """The output shape of every module that is called."""
    _, state = jax.eval_shape(
        lambda x: network.apply(
            network.init(jax.random.key(0), x, train=False),
            x,
            train=False,
            capture_intermediates=True,
            mutable="intermediates",
        ),
        images,
    )
    return state["intermediates"]


def test_stems_and_strides():
    small = _spatial_shapes(resnet_tiny(), jnp.zeros((1, 16, 16, 1)))
    assert small["conv1"]["__call__"][0].shape == (1, 16, 16, 16)
    assert small["layer1"]["__call__"][0].shape == (1, 16, 16, 16)
    assert small["layer3"]["__call__"][0].shape == (1, 4, 4, 64)
    strided = _spatial_shapes(resnet8(), jnp.zeros((1, 16, 16, 1)))
    assert strided["conv1"]["__call__"][0].shape == (1, 8, 8, 32)
    assert strided["layer1"]["__call__"][0].shape == (1, 8, 8, 32)
    assert strided["layer2"]["__call__"][0].shape == (1, 4, 4, 64)
    assert strided["layer3"]["__call__"][0].shape == (1, 4, 4, 128)
    large = _spatial_shapes(resnet50(), jnp.zeros((1, 64, 64, 3)))
    assert large["conv1"]["__call__"][0].shape == (1, 32, 32, 64)
    assert large["layer1"]["__call__"][0].shape == (1, 16, 16, 256)
    block = large["layer2"]["block0"]  # v1.5: the 3x3 has the stride, the 1x1 has not
    assert block["conv1"]["__call__"][0].shape == (1, 16, 16, 128)
    assert block["conv2"]["__call__"][0].shape == (1, 8, 8, 128)


def test_zero_init_residual_starts_as_the_identity():
    images = _images(2, 8, 8, 3)
    network = ResNet(stage_sizes=(2,), width=4, stem="small", zero_init_residual=True)
    variables = _init(network, images)
    scales = variables["params"]["layer1"]["block1"]
    np.testing.assert_array_equal(scales["bn2"]["scale"], 0.0)
    np.testing.assert_array_equal(scales["bn1"]["scale"], 1.0)
    stem = {
        collection: {name: tree[name] for name in ("conv1", "bn1") if name in tree}
        for collection, tree in variables.items()
    }
    np.testing.assert_allclose(
        _evaluate(network, variables, images),
        _evaluate(network.clone(stage_sizes=()), stem, images),
        rtol=1e-6,
    )


def test_he_normal_initialisation():
    network = ResNet(stage_sizes=(1,), width=128, stem="small")
    params = _init(network, jnp.zeros((1, 4, 4, 3)))
    kernel = params["params"]["layer1"]["block0"]["conv2"]["kernel"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 128)), rtol=5e-3)
    assert jnp.abs(kernel).max() > 4 * kernel.std()  # not truncated


def _gradients(network, variables, images, branch):
    def loss(params):
        z, stats = network.apply(
            {**variables, "params": params},
            images,
            train=True,
            branch=branch,
            mutable="batch_stats",
        )
        return jnp.mean(jnp.sin(z)), stats

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


def test_remat_changes_neither_values_nor_names():
    norm = functools.partial(BatchNorm, adversarial_branch=True, group_size=2)
    plain = Encoder(
        resnet_tiny(stage_sizes=(1, 1), norm=norm, width=4),
        caco_projector(8, 4, norm=norm),
    )
    remat = Encoder(plain.backbone.clone(remat=True), plain.projector)
    images = _images(4, 8, 8, 1)
    variables = _init(plain, images)
    again = _init(remat, images)
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    got = _gradients(remat, variables, images, "adversarial")
    want = _gradients(plain, variables, images, "adversarial")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want
    )
    moved = jax.tree_util.tree_map_with_path(
        lambda path, old, new: (
            "adversarial" in path[-1].key or bool(np.array_equal(old, new))
        ),
        variables["batch_stats"],
        got[1]["batch_stats"],
    )
    assert all(jax.tree.leaves(moved)), "the clean statistics moved"


def test_bfloat16_computation_has_float32_parameters_and_outputs():
    encoder = Encoder(
        resnet_tiny(stage_sizes=(1, 1), width=4, dtype=jnp.bfloat16),
        caco_projector(8, 4, dtype=jnp.bfloat16),
    )
    images = _images(2, 8, 8, 1)
    variables = _init(encoder, images)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    z = _evaluate(encoder, variables, images)
    assert z.dtype == jnp.float32
    wide = Encoder(resnet_tiny(stage_sizes=(1, 1), width=4), caco_projector(8, 4))
    np.testing.assert_allclose(z, _evaluate(wide, variables, images), atol=0.1)
    inside = _spatial_shapes(encoder, images)
    assert inside["backbone"]["layer1"]["__call__"][0].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "network, images, error, message",
    [
        (resnet_tiny(), jnp.zeros((8, 8, 1)), ValueError, r"shape \(8, 8, 1\)"),
        (resnet_tiny(), jnp.zeros((0, 8, 8, 1)), ValueError, r"shape \(0, 8, 8, 1\)"),
        (
            resnet_tiny(),
            jnp.zeros((2, 8, 8, 1), jnp.uint8),
            TypeError,
            r"uint8 of shape \(2, 8, 8, 1\)",
        ),
        (
            ResNet(block="dense"),
            jnp.zeros((2, 8, 8, 1)),
            ValueError,
            r"block: expected one of \['basic', 'bottleneck'\], got 'dense'",
        ),
        (
            ResNet(stem="cifar"),
            jnp.zeros((2, 8, 8, 1)),
            ValueError,
            r"stem: expected one of \['imagenet', 'small', 'strided'\], got 'cifar'",
        ),
        (
            ResNet(strides=(1, 2)),
            jnp.zeros((2, 8, 8, 1)),
            ValueError,
            r"a stride for each of the stages \(2, 2, 2, 2\), got \(1, 2\)",
        ),
    ],
)
def test_errors(network, images, error, message):
    with pytest.raises(error, match=message):
        _shapes(network, images)


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradients(network, variables, images):
    def loss(params, images):
        z, stats = network.apply(
            {**variables, "params": params}, images, train=True, mutable="batch_stats"
        )
        return jnp.mean(jnp.sin(3 * z)), stats

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        variables["params"], images
    )


@pytest.mark.parametrize(("stem", "group_size"), [("imagenet", None), ("small", 2)])
def test_folded_batchnorm_changes_neither_values_nor_names(stem, group_size):
    with jax.enable_x64():
        plain = ResNet(
            stage_sizes=(1, 1),
            block="bottleneck",
            width=4,
            stem=stem,
            norm=functools.partial(BatchNorm, group_size=group_size),
            param_dtype=jnp.float64,
        )
        folded = plain.clone(fold_batchnorm=True)
        images = _images(4, 8, 8, 3, dtype=jnp.float64)
        variables, again = _init(plain, images), _init(folded, images)
        jax.tree.map(np.testing.assert_array_equal, variables, again)
        rng = np.random.default_rng(1)
        variables = jax.tree.map(
            lambda leaf: leaf + rng.uniform(-0.5, 0.5, leaf.shape), variables
        )
        variables["params"]["bn1"]["scale"] *= jnp.array([1, -1, 1, -1])
        variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
        want = _value_and_gradients(plain, variables, images)
        got = _value_and_gradients(folded, variables, images)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
            got,
            want,
        )
        np.testing.assert_allclose(
            _evaluate(folded, variables, images),
            _evaluate(plain, variables, images),
            rtol=1e-9,
        )
