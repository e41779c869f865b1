"""Vision transformers to and from timm's names, against equations in PyTorch."""

import functools

import jax
import numpy as np
import pytest

from caco_jax.config.build import load_run
from caco_jax.interop.torch_weights import from_torch, to_torch
from caco_jax.interop.workdirs import export_run, import_run
from caco_jax.nets import ViT
from caco_jax.schema import UserError
from tests.interop import torch_oracle
from tests.interop.test_workdirs import config
from tests.interop.torch_vit import vit

SIZE = {"width": 8, "heads": 2, "depth": 2}


def images(channels=3):
    shape = (3, 16, 16, channels)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def wanted(torch, forward, x):
    with torch.no_grad():
        return forward(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


@pytest.mark.parametrize("fixed", [False, True], ids=["learned", "fixed"])
@pytest.mark.parametrize("pooling", ["token", "mean"])
def test_forward_pass_agrees_with_the_equations(pooling, fixed):
    torch = torch_oracle.require_torch()
    state, forward = vit(
        torch, **SIZE, patch=4, grid=4, token=pooling == "token", channels=1
    )
    network = ViT(
        **SIZE,
        patch_size=4,
        pooling=pooling,
        positions="sincos" if fixed else "learned",
        fixed_patches=fixed,
    )
    x = images(channels=1)
    init = functools.partial(network.init, train=False)
    variables = from_torch(state, jax.eval_shape(init, jax.random.key(0), x))
    got = jax.jit(functools.partial(network.apply, train=False))(variables, x)
    want = wanted(torch, forward, x)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()

    again = to_torch(variables)
    assert again.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(again[name], tensor.numpy(), err_msg=name)


def vit_config(**options):
    return config(
        "moco", backbone="vit_tiny", options={**SIZE, "patch_size": 8, **options}
    )


def test_a_file_of_timms_becomes_a_run_and_comes_out_again(tmp_path):
    torch = torch_oracle.require_torch()
    state, forward = vit(torch, **SIZE, patch=8, grid=2, token=True)
    head = {"head.weight": torch.ones(10, 8), "head.bias": torch.ones(10)}
    torch.save({"model": state | head}, tmp_path / "timm.pth")
    report = import_run(tmp_path / "timm.pth", vit_config(), tmp_path / "run")
    assert report["imported"] == ["backbone"]
    assert report["fresh"] == ["projector", "target encoder", "queue"]
    assert report["left_out"] == {"model.head": 2}

    run, x = load_run(tmp_path / "run"), images()
    embed = jax.jit(functools.partial(run.pretraining.encoder.features, train=False))
    want = wanted(torch, forward, x)
    assert np.abs(embed(run.network, x)[0] - want).max() <= 1e-4 * np.abs(want).max()

    export_run(tmp_path / "run", tmp_path / "out.pth")
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert content.keys() == state.keys()
    assert all(torch.equal(content[name], state[name]) for name in state)
    with pytest.raises(UserError) as caught:
        export_run(tmp_path / "run", tmp_path / "out.pkl")
    assert str(caught.value) == (
        "--file: expected a ResNet for detectron2's .pkl, got a run of vit_tiny; "
        "name a file that ends in .pth or .safetensors"
    )


def test_another_vit_is_refused_by_name(tmp_path):
    torch = torch_oracle.require_torch()
    state, _ = vit(torch, **SIZE, patch=4, grid=4, token=True)
    torch.save(state, tmp_path / "timm.pth")
    with pytest.raises(UserError) as caught:
        import_run(tmp_path / "timm.pth", vit_config(), tmp_path / "run")
    assert "patch_embed.proj.weight: expected (8, 3, 8, 8) as in the network, got " in (
        str(caught.value)
    )
