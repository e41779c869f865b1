"""The papers' projectors and the encoder that joins one to a backbone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.nets import (
    BatchNorm,
    Encoder,
    caco_projector,
    mlp_projector,
    resnet_tiny,
)

FEATURES = np.random.default_rng(0).normal(size=(6, 5))


def _init(projector, features):
    return projector.init(jax.random.key(0), features, train=False)


def test_caco_projector_is_its_formula():
    projector = caco_projector(7, 3, param_dtype=jnp.float64)
    with jax.enable_x64(True):
        variables = _init(projector, jnp.asarray(FEATURES))
        z, _ = projector.apply(
            variables, jnp.asarray(FEATURES), train=True, mutable="batch_stats"
        )
    params = variables["params"]
    assert params.keys() == {"linear_0", "norm_1", "linear_3", "norm_4", "linear_6"}
    x = FEATURES
    for name in ("linear_0", "linear_3"):
        assert params[name].keys() == {"kernel"}
        x = x @ np.asarray(params[name]["kernel"])
        x = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), 0)
    want = x @ np.asarray(params["linear_6"]["kernel"])
    np.testing.assert_allclose(z, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("widths", [(3,), (4, 3), (7, 6, 3)])
def test_mlp_projector_is_its_formula(widths):
    projector = mlp_projector(*widths, param_dtype=jnp.float64)
    with jax.enable_x64(True):
        variables = _init(projector, jnp.asarray(FEATURES))
        rng = np.random.default_rng(1)  # biases start at 0: move them
        params = jax.tree.map(
            lambda p: jnp.asarray(rng.normal(size=p.shape)), variables["params"]
        )
        z = projector.apply({"params": params}, jnp.asarray(FEATURES), train=True)
    assert set(variables) == {"params"}
    x = FEATURES
    for i in range(len(widths)):
        x = np.maximum(x, 0) if i else x
        layer = params[f"linear_{2 * i}"]
        x = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    np.testing.assert_allclose(z, x, rtol=0, atol=1e-12)


def test_linear_layers_start_uniform_in_one_over_root_inputs():
    kernel = _init(mlp_projector(400), jnp.zeros((1, 100)))["params"]["linear_0"][
        "kernel"
    ]
    assert 0.099 < jnp.abs(kernel).max() <= 0.1
    np.testing.assert_allclose(kernel.std(), 0.1 / np.sqrt(3), rtol=0.02)


def test_projector_rejects_maps():
    with pytest.raises(
        ValueError, match=r"expected \[N, F\], got shape \(2, 3, 3, 4\)"
    ):
        _init(mlp_projector(3), jnp.zeros((2, 3, 3, 4)))


@pytest.fixture(scope="module")
def encoder():
    norm = functools.partial(BatchNorm, adversarial_branch=True)
    return Encoder(resnet_tiny(width=4, norm=norm), caco_projector(8, 3, norm=norm))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(2).normal(size=(4, 8, 8, 1)), jnp.float32)


def test_encoder_is_projector_after_backbone(encoder, images):
    variables = encoder.init(jax.random.key(0), images, train=False)
    assert variables["params"].keys() == {"backbone", "projector"}
    features = encoder.apply(variables, images, method="features")
    assert features.shape == (4, 16)
    part = {name: tree["projector"] for name, tree in variables.items()}
    np.testing.assert_array_equal(
        encoder.apply(variables, images, train=False),
        encoder.projector.apply(part, features, train=False),
    )


def test_branch_reaches_every_norm(encoder, images):
    variables = encoder.init(jax.random.key(0), images, train=False)
    for branch in ("clean", "adversarial"):
        _, new = encoder.apply(
            variables, images, train=True, branch=branch, mutable="batch_stats"
        )
        moved = jax.tree_util.tree_map_with_path(
            lambda path, a, b: (
                path[-1].key.startswith("adversarial_"),
                not np.array_equal(a, b),
            ),
            variables["batch_stats"],
            new["batch_stats"],
        )
        pairs = jax.tree.leaves(moved, is_leaf=lambda leaf: isinstance(leaf, tuple))
        assert all(
            moved == (twin == (branch == "adversarial")) for twin, moved in pairs
        )


def test_branches_agree_until_trained_apart(encoder, images):
    variables = encoder.init(jax.random.key(0), images, train=False)
    clean, twin = (
        encoder.apply(variables, images, train=False, branch=branch)
        for branch in ("clean", "adversarial")
    )
    np.testing.assert_array_equal(clean, twin)
