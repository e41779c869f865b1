"""Vision transformers: sizes, positions, what is fixed, and what training draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.nets import VITS, ViT, sincos_positions

SMALL = ViT(width=8, heads=2, depth=2, patch_size=4)
FIXED = SMALL.clone(positions="sincos", fixed_patches=True)


def images(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def shapes_of(network, x):
    init = functools.partial(network.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), x)


def drawn(network, x=None):
    """Variables that took no compiling."""
    x = images(2, 8, 8, 3) if x is None else x
    rng = np.random.default_rng(1)

    def draw(leaf):
        return jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype)

    return jax.tree.map(draw, shapes_of(network, x))


def run(network, variables, x, **how):
    return jax.jit(functools.partial(network.apply, **{"train": False, **how}))(
        variables, x
    )


# timm's vit_tiny_patch16_224 and so on, without their classifiers.
@pytest.mark.parametrize(
    "name, numbers, width",
    [
        ("vit_tiny", 5_524_416, 192),
        ("vit_small", 21_665_664, 384),
        ("vit_base", 85_798_656, 768),
    ],
)
def test_a_name_is_the_network_of_that_size(name, numbers, width):
    shapes = shapes_of(VITS[name](), jnp.zeros((1, 224, 224, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == numbers
    assert shapes["params"]["cls_token"].shape == (1, 1, width)


def test_a_patch_is_a_token_in_rows_and_columns():
    """Without blocks, tokens are layers of patches: rows first, pixels row by row."""
    network = SMALL.clone(depth=0, pooling="mean", positions="sincos")
    x = images(2, 8, 12, 3)
    variables = drawn(network, x)
    variables["params"]["norm"] = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    variables["batch_stats"]["pos_embed"] = sincos_positions((2, 3), 8)
    patches = variables["params"]["patches"]
    tokens = [
        np.einsum("nijc,ijcd->nd", x[:, i : i + 4, j : j + 4], patches["kernel"])
        + patches["bias"][None]
        for i in (0, 4)
        for j in (0, 4, 8)
    ]
    tokens = np.stack(tokens, axis=1) + sincos_positions((2, 3), 8)
    centred = tokens - tokens.mean(-1, keepdims=True)
    want = (centred / np.sqrt(tokens.var(-1, keepdims=True) + 1e-6)).mean(axis=1)
    np.testing.assert_allclose(run(network, variables, x), want, atol=1e-5)


def test_sincos_positions_by_hand():
    found = sincos_positions((2, 3), 8, tokens=1)
    assert found.shape == (1, 7, 8)
    np.testing.assert_array_equal(found[0, 0], np.zeros(8))
    angles = np.array([2.0, 0.02, 1.0, 0.01])  # column 2, row 1; frequencies 1, 0.01
    want = np.concatenate(
        [np.sin(angles[:2]), np.cos(angles[:2]), np.sin(angles[2:]), np.cos(angles[2:])]
    )
    np.testing.assert_allclose(found[0, 6], want, rtol=1e-5)


def test_what_is_fixed_is_no_parameter():
    draw = jax.jit(lambda key: FIXED.init(key, images(2, 8, 8, 3), train=True))
    variables = draw(jax.random.key(0))
    assert set(variables["params"]) == {"cls_token", "blocks_0", "blocks_1", "norm"}
    fixed = variables["batch_stats"]
    assert set(fixed) == {"patches", "pos_embed"}
    other = draw(jax.random.key(1))["batch_stats"]
    assert not np.array_equal(fixed["patches"]["kernel"], other["patches"]["kernel"])
    np.testing.assert_array_equal(fixed["pos_embed"], sincos_positions((2, 2), 8, 1))
    _, after = run(FIXED, variables, images(2, 8, 8, 3), train=True, mutable=True)
    jax.tree.map(np.testing.assert_array_equal, after["batch_stats"], fixed)


@pytest.mark.parametrize("network", [SMALL, FIXED], ids=["learned", "sincos"])
def test_views_of_another_size_have_positions_too(network):
    variables = drawn(network)
    x = images(2, 16, 12, 3)
    found = run(network, variables, x)
    collection = "params" if network is SMALL else "batch_stats"
    own = variables[collection]["pos_embed"]
    want = sincos_positions((4, 3), 8, 1)
    if network is SMALL:
        grid = jax.image.resize(own[:, 1:].reshape(1, 2, 2, 8), (1, 4, 3, 8), "bicubic")
        want = jnp.concatenate([own[:, :1], grid.reshape(1, 12, 8)], axis=1)
    as_if = {**variables[collection], "pos_embed": want}
    whole = run(network, {**variables, collection: as_if}, x)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_remat_changes_neither_values_nor_names():
    network = SMALL.clone(stochastic_depth=0.5, heads=1)
    x = images(4, 8, 8, 3)
    variables = drawn(network)

    def gradients(network):
        def loss(params):
            return jnp.square(network.apply({"params": params}, x, train=True)).sum()

        return jax.jit(jax.grad(loss))(variables["params"])

    remat = network.clone(remat=True)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, drawn(remat))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradients(remat),
        gradients(network),
    )


def test_stochastic_depth_skips_blocks_in_training_alone():
    """The last block of two is skipped for the share; the others count for more."""
    share = 0.25
    network = SMALL.clone(stochastic_depth=share, pooling="mean")
    x = jnp.tile(images(1, 8, 8, 3), (4000, 1, 1, 1))
    variables = drawn(network)
    still = run(network, variables, x)
    np.testing.assert_allclose(still, np.tile(still[:1], (4000, 1)), atol=1e-5)
    np.testing.assert_array_equal(still, run(SMALL.clone(pooling="mean"), variables, x))

    rows = np.asarray(run(network, variables, x, train=True))
    np.testing.assert_array_equal(rows, run(network, variables, x, train=True))
    # Attention and the network behind it are skipped each for themselves: four kinds.
    one = SMALL.clone(depth=1, pooling="mean")
    first = {**variables["params"]}
    del first["blocks_1"]
    skipped = np.asarray(run(one, {"params": first}, x[:1]))
    both = np.isclose(rows, skipped, atol=1e-5).all(axis=1).mean()
    assert abs(both - share**2) < 0.02
    kinds = np.unique(rows.round(3), axis=0)
    assert len(kinds) == 4
    # The last bits of pixels are those of a layout, and change nothing.
    close = run(network, variables, x * (1 + 1e-7), train=True)
    np.testing.assert_allclose(close, rows, atol=1e-3)
    other = run(network, variables, x + 0.5, train=True)
    assert not np.allclose(other, rows, atol=0.1)  # other pixels, other rows


def test_bfloat16_computation_has_float32_parameters_and_outputs():
    narrow = SMALL.clone(dtype=jnp.bfloat16)
    x = images(2, 8, 8, 3)
    variables = drawn(narrow)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    found = run(narrow, variables, x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, run(SMALL, variables, x), atol=0.1)
    assert not np.allclose(found, run(SMALL, variables, x), atol=1e-5)


def test_the_branch_of_adversarial_images_changes_nothing():
    variables, x = drawn(SMALL), images(2, 8, 8, 3)
    adversarial = run(SMALL, variables, x, branch="adversarial")
    np.testing.assert_array_equal(adversarial, run(SMALL, variables, x))


@pytest.mark.parametrize(
    "changes, shape, message",
    [
        ({}, (8, 9, 3), "expected images that patches of 4 pixels divide, got 8 x 9"),
        ({"heads": 3}, (8, 8, 3), "expected heads that divide the width of 8, got 3"),
        (
            {"width": 6, "positions": "sincos"},
            (8, 8, 3),
            "expected a width of a multiple of 4 for sincos, got 6",
        ),
        (
            {"stochastic_depth": 1.0},
            (8, 8, 3),
            r"stochastic_depth: expected a number in \[0, 1\), got 1",
        ),
        ({"pooling": "max"}, (8, 8, 3), "pooling: expected one of .*, got 'max'"),
        ({"positions": "none"}, (8, 8, 3), "positions: expected one of .*, got 'none'"),
    ],
    ids=["size", "heads", "width", "depth", "pooling", "positions"],
)
def test_what_does_not_fit_is_said(changes, shape, message):
    with pytest.raises(ValueError, match=f"^ViT: {message}"):
        shapes_of(SMALL.clone(**changes), jnp.zeros((2, *shape)))


def test_positions_that_were_learned_on_no_square_are_of_one_size():
    variables = drawn(SMALL, images(2, 8, 12, 3))
    with pytest.raises(ValueError, match=r"whose 6 patches are no square.*to sincos"):
        run(SMALL, variables, images(2, 8, 8, 3))
