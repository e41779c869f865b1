"""The conversion command: its lines, its flags, and that other commands accept it."""

import json

import numpy as np
import pytest

from caco_jax.interop.files import read_weights
from caco_jax.programs import convert, knn
from tests.experiments.commands import CONFIG, TINY, call, one_line
from tests.interop import torch_oracle

# The tiny digits network, of made-up images: evaluation needs them.
RECIPE = [
    CONFIG,
    *TINY,
    "--config.encoder.backbone=resnet_tiny",
    "--config.encoder.stem=small",
]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A checkpoint of CaCo, as its code saves it, and its online encoder."""
    torch = torch_oracle.require_torch()
    online, target = (
        torch_oracle.resnet(torch, (1, 1, 1), width=4, stem="small", channels=1)
        for _ in range(2)
    )
    state = {}
    for name, module in {"encoder_q": online, "encoder_k": target}.items():
        module.fc = torch_oracle.head_layers(torch, 16, (8, 8, 4), norm=True)
        torch_oracle.randomise(torch, module)
        state |= {f"module.{name}.{n}": t for n, t in module.state_dict().items()}
    bank = {"W": torch.ones(4, 16), "v": torch.zeros(4, 16)}
    path = tmp_path_factory.mktemp("files") / "caco.pth.tar"
    torch.save({"epoch": 9, "state_dict": state, "Memory_Bank": bank}, path)
    return path, online.state_dict()


def imported(released, workdir, *flags):
    return call(
        convert.main,
        "import",
        f"--file={released[0]}",
        f"--workdir={workdir}",
        *RECIPE,
        *flags,
    )


def test_there_and_back_through_the_commands(released, tmp_path):
    file, state = released
    workdir = tmp_path / "run"
    status, out, err = imported(released, workdir)
    assert (status, err) == (0, "")
    assert out == (
        f"The run in {workdir} has from {file}: backbone, projector, target encoder, "
        "bank. As in a new run: nothing.\n"
        "Its encoder's names begin with state_dict.module.encoder_q.\n"
        "Other encoders in it: state_dict.module.encoder_k.; take one by "
        "--encoder=NAME\n"
        "Left out: Memory_Bank (1 array)\n"
    )
    assert json.loads((workdir / "imported.json").read_text()) == {
        "file": str(file),
        "imported": ["backbone", "projector", "target encoder", "bank"],
        "fresh": [],
        "prefix": "state_dict.module.encoder_q.",
        "encoders": ["state_dict.module.encoder_k."],
        "left_out": {"Memory_Bank": 1},
    }

    status, out, _ = call(knn.main, f"--workdir={workdir}")
    assert status == 0
    assert "of 16 held-out images" in out
    assert json.loads((workdir / "knn.json").read_text())["step"] == 0

    flags = ["export", f"--workdir={workdir}", f"--file={tmp_path / 'w.pth'}"]
    status, out, _ = call(convert.main, *flags, "--parts", "backbone", "projector")
    numbers = sum(tensor.numel() for tensor in state.values())
    assert (status, out) == (
        0,
        f"{tmp_path / 'w.pth'} has backbone, projector of the run at step 0: "
        f"{len(state)} arrays, {numbers:,} numbers.\n",
    )
    again = read_weights(tmp_path / "w.pth")
    assert again.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)

    assert one_line(call(convert.main, *flags)) == (
        f"--file: expected a new file, got {tmp_path / 'w.pth'}, which exists; name "
        "another file, or --force to replace it"
    )
    assert call(convert.main, *flags, "--force")[0] == 0
    assert set(read_weights(tmp_path / "w.pth")) == {n for n in state if n[:2] != "fc"}


def test_mistakes_are_one_line_and_touch_nothing(released, tmp_path):
    workdir = tmp_path / "run"
    wide = imported(released, workdir, "--config.encoder.width=8")
    assert one_line(wide) == (
        f"--file: {released[0]}: conv1.weight: expected (8, 1, 3, 3) as in the "
        "network, got (4, 1, 3, 3); 44 more differ; name the recipe of this "
        "network, or change --config.encoder"
    )
    typo = imported(released, workdir, "--config.encoder.widht=8")
    assert one_line(typo) == ("config.encoder.widht: no such key; did you mean width?")
    message = one_line(imported(released, workdir, "--parts", "head"))
    assert message.startswith("argument --parts: invalid choice: 'head'")
    assert not workdir.exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "the following arguments are required: action; see --help"),
        (["convert"], "argument action: invalid choice: 'convert'"),
        (["import"], "the following arguments are required: --config, --file, --work"),
        (["export"], "the following arguments are required: --file, --workdir; see"),
        (
            ["export", "--workdir=x", "--file=x.pkl", "--config.seed=1"],
            "unrecognized arguments: --config.seed=1; see --help",
        ),
        (
            ["export", "--workdir=none", "--file=x.pkl"],
            "--workdir: expected the directory of a run, got ",
        ),
        (
            ["export", "--workdir=none", "--file=x.onnx"],
            "--file: expected a name that ends in .pth, .pt, .tar, .safetensors, .pkl, "
            "got",
        ),
    ],
)
def test_wrong_flags(flags, message):
    assert one_line(call(convert.main, *flags)).startswith(message)


@pytest.mark.parametrize("action", [[], ["import"], ["export"]])
def test_help_is_given(action):
    status, out, err = call(convert.main, *action, "--help")
    assert (status, err) == (0, "")
    assert out.startswith("usage: ")
    assert ("--workdir" in out) == bool(action)
