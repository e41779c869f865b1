"""Names, layouts and errors of the exchange with PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.interop.torch_weights import from_torch, to_torch
from caco_jax.nets import (
    BatchNorm,
    Encoder,
    ResNet,
    caco_projector,
    mlp_projector,
    resnet_tiny,
)
from tests.interop import torch_oracle

IMAGES = jnp.zeros((1, 8, 8, 3))


def _random(network, *, dtype=np.float32):
    """Every variable random, so that no two can be exchanged unseen."""
    shapes = jax.eval_shape(
        functools.partial(network.init, train=False), jax.random.key(0), IMAGES
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(dtype), shapes)


@pytest.fixture(scope="module")
def variables():
    return _random(Encoder(resnet_tiny(width=4), caco_projector(8, 3)))


def test_names_and_layouts(variables):
    state = to_torch(variables)
    params, stats = variables["params"], variables["batch_stats"]
    block = params["backbone"]["layer2"]["block0"]
    np.testing.assert_array_equal(
        state["layer2.0.conv1.weight"],
        np.transpose(block["conv1"]["kernel"], (3, 2, 0, 1)),
    )
    assert state["layer2.0.conv1.weight"].shape == (8, 4, 3, 3)
    assert state["layer2.0.downsample.0.weight"].shape == (8, 4, 1, 1)
    np.testing.assert_array_equal(
        state["layer2.0.downsample.1.weight"], block["downsample_bn"]["scale"]
    )
    np.testing.assert_array_equal(
        state["bn1.running_var"], stats["backbone"]["bn1"]["var"]
    )
    np.testing.assert_array_equal(
        state["fc.6.weight"], params["projector"]["linear_6"]["kernel"].T
    )
    np.testing.assert_array_equal(
        state["fc.4.running_mean"], stats["projector"]["norm_4"]["mean"]
    )
    counter = state["layer1.0.bn2.num_batches_tracked"]
    assert counter == 0 and counter.dtype == np.int64 and counter.shape == ()
    assert all(array.flags.c_contiguous for array in state.values())


@pytest.mark.parametrize(
    "network",
    [
        Encoder(resnet_tiny(width=4), caco_projector(8, 3)),
        Encoder(
            resnet_tiny(
                width=4, norm=functools.partial(BatchNorm, adversarial_branch=True)
            ),
            mlp_projector(6, 5, 3),
        ),
        ResNet(stage_sizes=(1, 2), width=2, block="bottleneck"),
    ],
    ids=["caco", "adversarial twin, biases", "backbone alone"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_is_bit_exact(network, dtype):
    variables = _random(network, dtype=dtype)
    state = to_torch(variables, prefix="module.encoder_q.")
    state["module.encoder_k.conv1.weight"] = np.zeros(3)  # not under the prefix
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), variables)
    again = from_torch(state, shapes, prefix="module.encoder_q.")

    def same(got, want):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)

    jax.tree.map(same, again, variables)


def test_twin_has_its_own_names():
    norm = functools.partial(BatchNorm, adversarial_branch=True)
    variables = _random(
        Encoder(resnet_tiny(width=4, norm=norm), caco_projector(8, 3, norm=norm))
    )
    state = to_torch(variables)
    clean = to_torch(_random(Encoder(resnet_tiny(width=4), caco_projector(8, 3))))
    assert {name for name in state if "_adv." not in name} == set(clean)
    np.testing.assert_array_equal(
        state["layer1.0.bn1_adv.bias"],
        variables["params"]["backbone"]["layer1"]["block0"]["bn1"]["adversarial_bias"],
    )
    assert state["fc.1_adv.running_var"].shape == (8,)


KERNEL = "layer1.0.conv1.weight"


@pytest.mark.parametrize(
    "without, extra, message",
    [
        (
            ["fc.6.weight"],
            {KERNEL: (4, 4, 1, 1), "fc.7.weight": (2, 2)},
            f"{KERNEL}: expected (4, 4, 3, 3) as in the network, got (4, 4, 1, 1); "
            "2 more differ",
        ),
        (
            ["fc.6.weight"],
            {"fc.7.weight": (2, 2)},
            "fc.6.weight: expected (3, 8) as in the network, got none; 1 more differ",
        ),
        (
            [],
            {"fc.7.weight": (2, 2)},
            "fc.7.weight: expected none as in the network, got (2, 2)",
        ),
    ],
    ids=["another shape", "missing", "unexpected"],
)
def test_the_first_difference_is_named_with_both_shapes(
    variables, without, extra, message
):
    state = to_torch(variables, prefix="encoder.")
    state |= {f"encoder.{name}": np.zeros(shape) for name, shape in extra.items()}
    for name in without:
        del state[f"encoder.{name}"]
    with pytest.raises(ValueError) as caught:
        from_torch(state, variables, prefix="encoder.")
    assert str(caught.value) == f"encoder.{message}"


def test_takes_and_gives_pytorch_tensors(variables):
    torch = torch_oracle.require_torch()
    tensors = {name: torch.from_numpy(a) for name, a in to_torch(variables).items()}
    jax.tree.map(
        np.testing.assert_array_equal, from_torch(tensors, variables), variables
    )
    layer = torch.nn.Linear(8, 3, bias=False)
    layer.load_state_dict({"weight": tensors["fc.6.weight"]})
    x = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    np.testing.assert_allclose(
        layer(torch.from_numpy(x)).detach().numpy(),
        x @ variables["params"]["projector"]["linear_6"]["kernel"],
        rtol=1e-5,
        atol=1e-6,
    )
