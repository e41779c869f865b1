"""Our networks compute what PyTorch's do with the same state dict."""

import functools

import jax
import numpy as np
import pytest

from caco_jax.interop.torch_weights import from_torch, to_torch
from caco_jax.nets import Encoder, ResNet, caco_projector, mlp_projector
from tests.interop import torch_oracle

CASES = {
    "basic, small stem, CaCo's head": (
        {"stage_sizes": (1, 2, 1), "width": 4, "stem": "small"},
        caco_projector(8, 3),
        (8, 8, 3),
        (3, 9, 12, 1),
    ),
    "bottleneck, ImageNet's stem, AdCo's head": (
        {"stage_sizes": (2, 1), "width": 4, "stem": "imagenet"},
        mlp_projector(8, 3),
        (8, 3),
        (2, 33, 40, 3),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_forward_pass_agrees_with_pytorch(case):
    torch = torch_oracle.require_torch()
    options, projector, widths, shape = CASES[case]
    bottleneck = "bottleneck" in case
    block = "bottleneck" if bottleneck else "basic"
    encoder = Encoder(ResNet(block=block, **options), projector)
    oracle = torch_oracle.resnet(
        torch, expansion=4 if bottleneck else 1, channels=shape[-1], **options
    )
    norm = projector.norm is not None
    oracle.fc = torch_oracle.head_layers(torch, oracle.outputs, widths, norm=norm)
    torch_oracle.randomise(torch, oracle)

    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    template = jax.eval_shape(
        functools.partial(encoder.init, train=False), jax.random.key(0), images
    )
    variables = from_torch(oracle.state_dict(), template)
    run = jax.jit(functools.partial(encoder.apply, train=False))
    with torch.no_grad():
        want = oracle(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    got = run(variables, images)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()

    # And back: PyTorch takes what we export, under its own names and no others.
    state = {name: torch.from_numpy(a) for name, a in to_torch(variables).items()}
    assert list(state.keys() ^ oracle.state_dict().keys()) == []
    for name, tensor in oracle.state_dict().items():
        assert torch.equal(state[name], tensor), name
    oracle.load_state_dict(state, strict=True)
