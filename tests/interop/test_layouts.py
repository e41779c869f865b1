"""What is read of each project's checkpoint, and what is refused."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.interop.files import Unread
from caco_jax.interop.layouts import detectron2_names, parse
from caco_jax.schema import UserError
from tests.interop import torch_oracle

KERNEL = np.full((2, 1, 3, 3), 1.0, np.float32)
BANK = np.arange(6, dtype=np.float32).reshape(2, 3)
BACKBONE = {
    "conv1.weight": (2, 1, 3, 3),
    "bn1.weight": (2,),
    "bn1.running_var": (2,),
    "layer1.0.conv1.weight": (2, 2, 3, 3),
    "layer1.0.downsample.0.weight": (2, 2, 1, 1),
    "layer2.0.conv1.weight": (4, 2, 3, 3),
    "layer2.0.downsample.0.weight": (4, 2, 1, 1),
}
HEAD = {"fc.0.weight": (2, 2)}


def arrays(shapes, prefix="", value=1.0):
    made = {
        prefix + name: np.full(shape, value, np.float32)
        for name, shape in shapes.items()
    }
    counters = {
        name.replace("running_var", "num_batches_tracked"): np.zeros((), np.int64)
        for name in made
        if name.endswith("running_var")
    }
    return made | counters


def encoder(prefix, value):
    return arrays(BACKBONE | HEAD, prefix, value)


def read(content, **options):
    return parse(content, BACKBONE, HEAD, **options)


BOTH = encoder("module.encoder_q.", 1) | encoder("module.encoder_k.", 2)
MOCO = {"module.queue": BANK, "module.queue_ptr": np.array([2])}
OPTIMIZER = {"state": {0: {"momentum_buffer": KERNEL}}, "param_groups": [{"lr": 0.1}]}
ONLINE = "state_dict.module.encoder_q."


@pytest.mark.parametrize(
    "content, prefix, has_target, memory",
    [
        (
            {"epoch": 200, "state_dict": BOTH | MOCO, "optimizer": OPTIMIZER},
            ONLINE,
            True,
            {"queue": BANK, "queue_ptr": np.array([2])},
        ),
        (
            {"state_dict": BOTH, "Memory_Bank": {"W": BANK, "v": None}, "arch": "x"},
            ONLINE,
            True,
            {"Memory_Bank.W": BANK},
        ),
        (
            {"state_dict": encoder("encoder_q.", 1)},
            "state_dict.encoder_q.",
            False,
            {},
        ),
        ({"state_dict": encoder("module.", 1)}, "state_dict.module.", False, {}),
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
    weights = read(content)
    assert weights.prefix == prefix
    assert weights.online.keys() == BACKBONE.keys() | HEAD.keys()
    np.testing.assert_array_equal(weights.online["conv1.weight"], KERNEL)
    if has_target:
        assert set(weights.target) == set(weights.online)
        np.testing.assert_array_equal(weights.target["conv1.weight"], 2 * KERNEL)
    else:
        assert weights.target == {}
    assert set(weights.memory) == set(memory)
    for name, array in memory.items():
        np.testing.assert_array_equal(weights.memory[name], array)


def numbered(prefix, value, places):
    """Of an encoder that was cut into a Sequential."""
    return {
        prefix + name.replace(part, str(place)): array
        for part, place in places.items()
        for name, array in arrays(BACKBONE, value=value).items()
        if name.startswith(part)
    }


CUT = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5}  # 2 and 3 have no arrays
DINO = {
    "student": encoder("module.backbone.", 1) | arrays({"module.head.w": (3,)}),
    "teacher": encoder("backbone.", 2) | arrays({"head.w": (3,)}),
    "epoch": 3,
}
SOLO = {
    **arrays(BACKBONE, "backbone.", 1),
    **arrays(BACKBONE, "momentum_backbone.", 2),
    **arrays({"0.weight": (2, 2)}, "momentum_projector.", 2),
    **arrays({"0.weight": (2, 2)}, "projector.", 1),
    **arrays({"weight": (9, 2), "bias": (9,)}, "classifier."),
}


@pytest.mark.parametrize(
    "content, prefix, target, head",
    [
        ({"state_dict": encoder("backbone.", 1)}, "state_dict.backbone.", False, True),
        (encoder("_orig_mod.module.model.", 1), "_orig_mod.module.model.", False, True),
        (DINO, "student.module.backbone.", True, True),
        ({"state_dict": SOLO}, "state_dict.backbone.", True, True),
        (
            {"state_dict": encoder("m.", 1), "state_dict_ema": encoder("m.", 2)},
            "state_dict.m.",
            True,
            True,
        ),
        (
            encoder("module.momentum_encoder.", 2) | encoder("module.base_encoder.", 1),
            "module.base_encoder.",
            True,
            True,
        ),
        (numbered("backbone.", 1, CUT), "backbone.", False, False),
        (
            numbered("backbone.", 1, CUT)
            | numbered("backbone_momentum.", 2, CUT)
            | arrays({"layers.0.weight": (2, 2)}, "projection_head.", 1)
            | arrays({"layers.0.weight": (2, 2)}, "projection_head_momentum.", 2)
            | arrays({"layers.0.weight": (2, 2)}, "prediction_head.", 3),
            "backbone.",
            True,
            True,
        ),
        (
            arrays(BACKBONE | {"fc.weight": (5, 4), "fc.bias": (5,)}),
            "",
            False,
            False,
        ),
    ],
    ids=[
        "lightning",
        "compiled, parallel",
        "dino",
        "solo-learn",
        "timm with ema",
        "moco v3",
        "cut",
        "lightly",
        "classifier",
    ],
)
def test_wrappers_need_no_names_of_their_own(content, prefix, target, head):
    weights = read(content)
    assert weights.prefix == prefix
    names = BACKBONE.keys() | (HEAD.keys() if head else set())
    assert weights.online.keys() == names
    assert all((array == 1).all() for array in weights.online.values())
    assert weights.target.keys() == (names if target else set())
    assert all((array == 2).all() for array in weights.target.values())


def test_another_encoder_may_be_chosen():
    assert read(DINO).encoders == ("student.module.backbone.", "teacher.backbone.")
    weights = read(DINO, encoder="teacher")
    assert (weights.prefix, weights.target) == ("teacher.backbone.", {})
    assert (weights.online["conv1.weight"] == 2).all()
    # A name may be a part of another's.
    assert read(SOLO, encoder="backbone").prefix == "backbone."
    for text in ("head", "backbone"):
        message = (
            "--encoder: expected a part of one of student.module.backbone., "
            f"teacher.backbone.; got {text}"
        )
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            read(DINO, encoder=text)


def test_what_is_left_out_is_counted_by_place():
    content = {"state_dict": BOTH | MOCO, "optimizer": OPTIMIZER}
    content["state_dict"] |= arrays({"0.weight": (2, 2), "1.x": (2,)}, "module.pred.")
    weights = read(content)
    both = ["backbone", "projector", "target encoder"]
    assert weights.left_out([*both, "bank"]) == {
        "state_dict.module.pred": 2,
        "optimizer": 1,
    }
    left = weights.left_out(["backbone"])
    assert left["state_dict.module.encoder_q.fc"] == 1
    assert left["state_dict.module.encoder_k"] == 8
    assert left["state_dict.module.queue"] == 1


def test_of_another_size_of_network_all_that_it_has_is_read():
    # Whether it fits is for the network to say.
    shapes = {n: s for n, s in BACKBONE.items() if "downsample" not in n}
    assert read(arrays(shapes)).online.keys() == shapes.keys()
    more = BACKBONE | {"layer3.0.conv1.weight": (8, 4, 3, 3), "conv2.weight": (1,)}
    assert read(arrays(more | {"aux.weight": (1,)})).online.keys() == more.keys()


VIT = arrays({"cls_token": (1,), "blocks.0.attn.weight": (2, 2)})


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], "expected arrays by name, got list"),
        ({"state_dict": 3}, "expected arrays by name, got none; it holds no weights"),
        ({}, "expected arrays by name, got none; it holds no weights"),
        (
            VIT,
            "expected a network with names as conv1.weight under any prefix, got 2 "
            "arrays with names as cls_token: weights of another architecture, or under "
            "names that are not known here; ",
        ),
        (
            OPTIMIZER,
            "it holds the state of an optimiser and no network; name the file of the "
            "model beside it",
        ),
        ({"optimizer": OPTIMIZER, "epoch": 1}, "it holds the state of an optimiser"),
        ({"conv1.weight": "x"}, "conv1.weight: expected an array, got str"),
        (
            {"conv1.weight": KERNEL > 0},
            "conv1.weight: expected floats of 16, 32 or 64 bits, got bool; save it in "
            "one",
        ),
        (
            {"conv1.weight": KERNEL + 1j},
            "conv1.weight: expected floats of 16, 32 or 64 ",
        ),
        (
            {"conv1.weight": KERNEL.astype(jnp.float8_e4m3fn)},
            "conv1.weight: expected floats of 16, 32 or 64 bits, got float8_e4m3fn; ",
        ),
        (
            {"module.encoder_q.conv1.weight": KERNEL * np.nan},
            "module.encoder_q.conv1.weight: expected finite numbers, got NaN or "
            "infinity",
        ),
        (
            {"conv1.weight": KERNEL * np.float64(1e300)},
            "conv1.weight: expected finite numbers, got NaN or infinity",
        ),
        (
            {"conv1.weight": KERNEL, "queue": BANK + np.inf},
            "queue: expected finite numbers, got NaN or infinity",
        ),
    ],
)
def test_what_is_no_such_network_is_refused(content, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse(content, {"conv1.weight": (2, 1, 3, 3)}, HEAD)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64, np.float32])
def test_floats_of_any_width_become_float32(dtype):
    weights = read({n: a.astype(dtype) for n, a in encoder("", 0.5).items()})
    for array in weights.online.values():
        assert array.dtype == np.float32
        assert (array == 0.5).all()


def test_a_module_that_was_saved_whole():
    def module(parameters=(), buffers=(), modules=()):
        made = Unread("of any", arguments=1)
        made.__setstate__(
            {
                "_parameters": dict(parameters),
                "_buffers": dict(buffers),
                "_modules": dict(modules),
                "training": False,
            }
        )
        return made

    norm = module({"weight": np.ones(2)}, {"running_var": np.ones(2)})
    layers = {"conv1": module({"weight": KERNEL, "bias": None}), "bn1": norm}
    shapes = {"conv1.weight": (2, 1, 3, 3), "bn1.weight": (2,), "bn1.running_var": (2,)}
    content = {"model": module(modules=layers), "args": Unread()}
    weights = parse(content, shapes, HEAD)
    assert weights.prefix == "model."
    assert weights.online.keys() == shapes.keys()


def test_tensors_of_every_kind():
    torch = torch_oracle.require_torch()

    def only(tensor):
        content = {"conv1.weight": tensor}
        return parse(content, {"conv1.weight": (2, 1, 3, 3)}, {}).online["conv1.weight"]

    kernel = torch.from_numpy(KERNEL.copy())
    for tensor in (torch.nn.Parameter(kernel), kernel.bfloat16(), kernel.double()):
        assert only(tensor).dtype == np.float32
        np.testing.assert_array_equal(only(tensor), KERNEL)
    odd = [torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta")]
    for tensor in [*odd, kernel.to(torch.float8_e5m2)]:
        with pytest.raises(
            ValueError, match=r"^conv1\.weight: expected a dense tensor of "
        ):
            only(tensor)


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
