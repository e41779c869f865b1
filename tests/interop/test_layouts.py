"""What is read of each project's checkpoint, and what is refused."""

import re

import numpy as np
import pytest

from caco_jax.interop.layouts import detectron2_names, parse
from tests.interop import torch_oracle

KERNEL = np.full((2, 1, 3, 3), 1.0, np.float32)
BANK = np.arange(6, dtype=np.float32).reshape(2, 3)


def encoder(prefix, value):
    return {
        f"{prefix}conv1.weight": KERNEL * value,
        f"{prefix}bn1.num_batches_tracked": np.zeros((), np.int64),
        f"{prefix}fc.0.weight": np.full((2, 2), value, np.float32),
    }


BOTH = encoder("module.encoder_q.", 1) | encoder("module.encoder_k.", 2)
MOCO = {"module.queue": BANK, "module.queue_ptr": np.array([2])}
OPTIMIZER = {"state": {0: "not ours to read"}}


@pytest.mark.parametrize(
    "content, prefix, has_target, memory",
    [
        (
            {"epoch": 200, "state_dict": BOTH | MOCO, "optimizer": OPTIMIZER},
            "module.encoder_q.",
            True,
            {"queue": BANK, "queue_ptr": np.array([2])},
        ),
        (
            {"state_dict": BOTH, "Memory_Bank": {"W": BANK, "v": None}, "arch": "x"},
            "module.encoder_q.",
            True,
            {"Memory_Bank.W": BANK},
        ),
        ({"state_dict": encoder("encoder_q.", 1)}, "encoder_q.", False, {}),
        ({"state_dict": encoder("module.", 1)}, "module.", False, {}),
        (encoder("", 1), "", False, {}),
        (
            {**encoder("", 1), "Memory_Bank.W": BANK},
            "",
            False,
            {"Memory_Bank.W": BANK},
        ),
    ],
    ids=["moco", "adco, caco", "not parallel", "parallel", "torchvision", "exported"],
)
def test_where_the_arrays_lie(content, prefix, has_target, memory):
    weights = parse(content)
    assert weights.prefix == prefix
    assert weights.is_checkpoint == ("encoder_q" in prefix)
    assert set(weights.online) == set(encoder("", 1))
    np.testing.assert_array_equal(weights.online["conv1.weight"], KERNEL)
    if has_target:
        assert set(weights.target) == set(weights.online)
        np.testing.assert_array_equal(weights.target["conv1.weight"], 2 * KERNEL)
    else:
        assert weights.target == {}
    assert set(weights.memory) == set(memory)
    for name, array in memory.items():
        np.testing.assert_array_equal(weights.memory[name], array)


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], "want arrays by name, got list"),
        ({"state_dict": 3}, "want arrays by name, got int"),
        ({}, "want a ResNet under torchvision's names, got no conv1.weight under"),
        ({"cls_token": KERNEL}, "got no conv1.weight under any of module.encoder_q., "),
        ({"cls_token": KERNEL}, "; the names begin with ['cls_token']"),
        ({"conv1.weight": "x"}, "conv1.weight: want an array, got str"),
        ({"conv1.weight": KERNEL > 0}, "conv1.weight: want floats, got bool"),
        ({"conv1.weight": KERNEL + 1j}, "conv1.weight: want floats, got complex64"),
        (
            {"module.encoder_q.conv1.weight": KERNEL * np.nan},
            "module.encoder_q.conv1.weight: want finite numbers, got NaN or infinity",
        ),
        (
            {"conv1.weight": KERNEL, "queue": BANK + np.inf},
            "queue: want finite numbers, got NaN or infinity",
        ),
    ],
)
def test_what_is_no_resnet_is_refused(content, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(content)


def test_tensors_of_every_kind():
    torch = torch_oracle.require_torch()
    kernel = torch.nn.Parameter(torch.from_numpy(KERNEL.copy()))
    assert parse({"conv1.weight": kernel}).online["conv1.weight"].dtype == np.float32
    short = parse({"conv1.weight": torch.from_numpy(KERNEL.copy()).bfloat16()})
    assert short.online["conv1.weight"].dtype == np.float32
    np.testing.assert_array_equal(short.online["conv1.weight"], KERNEL)
    for odd in (torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta")):
        with pytest.raises(ValueError, match=r"^conv1\.weight: want a dense tensor: "):
            parse({"conv1.weight": odd})


def test_detectron2s_names():
    # As its own script for such checkpoints gives them, written out.
    names = {
        "conv1.weight": "stem.conv1.weight",
        "bn1.weight": "stem.conv1.norm.weight",
        "bn1.running_mean": "stem.conv1.norm.running_mean",
        "bn1.num_batches_tracked": "stem.conv1.norm.num_batches_tracked",
        "layer1.0.conv1.weight": "res2.0.conv1.weight",
        "layer1.0.bn1.bias": "res2.0.conv1.norm.bias",
        "layer1.0.bn3.running_var": "res2.0.conv3.norm.running_var",
        "layer1.0.downsample.0.weight": "res2.0.shortcut.weight",
        "layer1.0.downsample.1.weight": "res2.0.shortcut.norm.weight",
        "layer1.0.downsample.1.running_var": "res2.0.shortcut.norm.running_var",
        "layer3.5.conv2.weight": "res4.5.conv2.weight",
        "layer4.2.bn2.weight": "res5.2.conv2.norm.weight",
    }
    arrays = {name: np.full(1, i) for i, name in enumerate(names)}
    renamed = detectron2_names(arrays)
    assert {names[n]: arrays[n] for n in names} == renamed
