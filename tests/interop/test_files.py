"""Files of weights: exact round trips, and files that are damaged, hostile or taken."""

import argparse
import collections
import gzip
import io
import os
import pathlib
import pickle
import re
import sys
import zipfile

import numpy as np
import pytest

from caco_jax.interop.files import (
    Unread,
    check_writable,
    read_weights,
    write_weights,
)
from caco_jax.interop.layouts import parse
from caco_jax.schema import UserError
from tests.interop import torch_oracle

ARRAYS = {
    "conv1.weight": np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2) / 7,
    "bn1.weight": np.array([np.pi], np.float32),
    "bn1.num_batches_tracked": np.zeros((), np.int64),
}
KINDS = [".pth", ".pt", ".pth.tar", ".safetensors"]


def need(suffix):
    torch_oracle.require("safetensors" if suffix == ".safetensors" else "torch")


def refused(action, *args, **options):
    with pytest.raises(UserError) as caught:
        action(*args, **options)
    message = str(caught.value)
    assert message.startswith("--file: ") and "\n" not in message
    return message.removeprefix("--file: ")


@pytest.mark.parametrize("suffix", KINDS)
def test_what_is_written_is_read_bit_for_bit(tmp_path, suffix):
    need(suffix)
    path = tmp_path / "new" / f"weights{suffix}"
    write_weights(path, ARRAYS)
    again = read_weights(path)
    assert set(again) == set(ARRAYS)
    for name, array in ARRAYS.items():
        read = np.asarray(again[name])
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
        assert read.tobytes() == array.tobytes()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_safetensors_says_that_it_is_pytorchs(tmp_path):
    safetensors = torch_oracle.require("safetensors")
    write_weights(tmp_path / "w.safetensors", ARRAYS)
    with safetensors.safe_open(tmp_path / "w.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


class OnlyArrays(pickle.Unpickler):
    """Reads what any NumPy has: no name of NumPy's inside is used."""

    def find_class(self, module, name):
        assert (module, name) in {("numpy", "ndarray"), ("builtins", "bytearray")}
        return super().find_class(module, name)


def test_detectron2s_pickle(tmp_path):
    write_weights(tmp_path / "d2.pkl", ARRAYS)
    with (tmp_path / "d2.pkl").open("rb") as file:
        content = OnlyArrays(file).load()
    assert set(content) == {"model", "__author__", "matching_heuristics"}
    assert content["__author__"] == "caco_jax"
    assert content["matching_heuristics"] is True
    names = dict(
        zip(
            ARRAYS,
            [
                "stem.conv1.weight",
                "stem.conv1.norm.weight",
                "stem.conv1.norm.num_batches_tracked",
            ],
            strict=True,
        )
    )
    assert set(content["model"]) == set(names.values())
    for name, array in ARRAYS.items():
        read = content["model"][names[name]]
        np.testing.assert_array_equal(read, array)
        assert read.dtype == array.dtype and read.flags.writeable


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("format_", ["zip", "legacy", "plain pickle"])
def test_a_file_with_code_is_not_run(tmp_path, format_):
    torch = torch_oracle.require_torch()
    path, trace = tmp_path / "evil.pth.tar", tmp_path / "trace"
    content = {"state_dict": {"conv1.weight": Evil(trace)}}
    if format_ == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=format_ == "zip")
    assert refused(read_weights, path) == (
        f"{path} holds getattr, which is no array: nothing in it was run; expected a "
        "file of weights alone"
    )
    assert not trace.exists()
    # It would have run, if read otherwise.
    if format_ == "plain pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert trace.exists()


def test_what_a_hostile_file_asked_for_is_named(tmp_path):
    torch = torch_oracle.require_torch()
    path = tmp_path / "evil.pth"

    class Shell:
        def __reduce__(self):
            return os.system, ("exit 1",)

    torch.save(Shell(), path)
    assert refused(read_weights, path) == (
        f"{path} holds {os.name}.system, which is no array: nothing in it was run; "
        "expected a file of weights alone"
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", "legacy.pth"])
def test_a_truncated_file_is_one_line(tmp_path, suffix):
    need(suffix.removeprefix("legacy"))
    path = tmp_path / f"w{suffix}"
    if suffix == "legacy.pth":
        torch = torch_oracle.require_torch()
        tensors = {name: torch.from_numpy(a.copy()) for name, a in ARRAYS.items()}
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    else:
        write_weights(path, ARRAYS)
    whole = path.read_bytes()
    for length in [1, 7, 60, *range(100, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        message = refused(read_weights, path)
        assert message.startswith(f"{path} is damaged or no file of weights (")
        assert message.endswith("); fetch or save it again")


def test_a_large_file_that_is_damaged_says_so(tmp_path):
    torch_oracle.require_torch()
    path = tmp_path / "w.pth"
    write_weights(path, {"conv1.weight": np.zeros((40_000,), np.float32)})
    whole = path.read_bytes()
    at = whole.index(b"conv1.weight")
    for damaged in (whole[:-70_000], whole[:at] + b"\xff" * 12 + whole[at + 12 :]):
        path.write_bytes(damaged)
        assert refused(read_weights, path).startswith(f"{path} is damaged or no file ")


def test_a_file_of_some_other_program_says_so(tmp_path):
    torch = torch_oracle.require_torch()
    path = tmp_path / "model.pth"
    path.write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x052.0")  # ONNX
    assert refused(read_weights, path) == (
        f"{path} is neither PyTorch's nor safetensors; fetch or save it again as such"
    )
    torch.save({"conv1.weight": np.zeros(3)}, path)
    with pytest.raises(
        ValueError, match=r"expected an array, got numpy.*; save it as a t"
    ):
        parse(read_weights(path), {"conv1.weight": (3,)}, {})


def test_capitals_in_an_ending_are_as_good(tmp_path):
    torch_oracle.require_torch()
    write_weights(tmp_path / "w.pth", ARRAYS)
    (tmp_path / "w.pth").rename(tmp_path / "W.PTH")
    assert set(read_weights(tmp_path / "W.PTH")) == set(ARRAYS)


def lfs_pointer():
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"


def zipped():
    raw = io.BytesIO()
    np.savez(raw, **ARRAYS)
    return raw.getvalue()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty; fetch or save it again"),
        (b"<!DOCTYPE html><html>not found</html>", "is a web page and no file of "),
        (b'\n{"error": "not found"}', "is JSON and no file of weights; name the file"),
        (b"404: Not Found\n", "is text and no file of weights; fetch the file itself"),
        (lfs_pointer(), "is a Git LFS pointer and not the file that it stands for; "),
        (gzip.compress(b"x"), "is an archive; unpack it and name the file of weights "),
        (b"\x89HDF\r\n\x1a\n", "is of another framework; save its arrays under "),
        (pickle.dumps(ARRAYS, 2), "is a plain pickle, which is not read; save it with"),
        (pickle.dumps(ARRAYS, 5), "is a plain pickle, which is not read; save it with"),
        (zipped(), "is a zip archive, not one of PyTorch's; unpack it and name "),
    ],
    ids=[
        *["empty", "html", "json", "text", "lfs", "gzip", "hdf5"],
        *["pickle", "pickle-5", "npz"],
    ],
)
def test_what_is_no_file_of_weights_is_not_called_damaged(
    tmp_path, suffix, content, message
):
    torch_oracle.require_torch()
    torch_oracle.require("safetensors")
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    assert refused(read_weights, path).startswith(f"{path} {message}")


def test_a_program_of_torchscript_is_none(tmp_path):
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "version", "constants.pkl", "code/x.py"):
            archive.writestr(f"w/{name}", "3")
    torch_oracle.require_torch()
    assert refused(read_weights, path).startswith(f"{path} is a TorchScript program; ")


def test_what_a_checkpoint_has_beside_weights_is_not_run(tmp_path):
    torch = torch_oracle.require_torch()
    kernel = torch.ones(2, 1, 3, 3)
    content = {
        "model": {"conv1.weight": kernel},
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(71.3),
        "metrics": collections.defaultdict(list, loss=[0.5]),
        "callbacks": {pathlib.PurePosixPath: {"seen": {1, 2}}},
        "module": torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)),
    }
    torch.save(content, tmp_path / "last.ckpt")
    again = read_weights(tmp_path / "last.ckpt")
    assert torch.equal(again["model"]["conv1.weight"], kernel)
    assert isinstance(again["args"], Unread)
    assert again["metrics"] == {"loss": [0.5]}
    assert type(again["args"]).__name__ == "argparse.Namespace"
    weights = parse(again, {"0.weight": (2, 1, 3, 3), "0.bias": (2,)}, {})
    assert weights.prefix == "module."
    assert weights.left_out(["backbone"]) == {"model": 1}


def safetensors_of(torch, dtype):
    save = torch_oracle.require("safetensors.torch").save
    return save({"conv1.weight": torch.full((2, 1, 3, 3), 0.5).to(dtype)})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_safetensors_of_any_floats(tmp_path, dtype):
    torch = torch_oracle.require_torch()
    # The content decides, not the ending.
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(safetensors_of(torch, getattr(torch, dtype)))
    weights = parse(read_weights(path), {"conv1.weight": (2, 1, 3, 3)}, {})
    assert weights.online["conv1.weight"].dtype == np.float32
    assert (weights.online["conv1.weight"] == 0.5).all()


@pytest.mark.parametrize(
    "dtype, message",
    [
        (
            "float8_e4m3fn",
            "conv1.weight: expected floats of 16, 32 or 64 bits, got float8_e4m3fn; "
            "save ",
        ),
        ("int8", "conv1.weight: expected floats of 16, 32 or 64 bits, got int8; save "),
    ],
)
def test_safetensors_of_other_numbers_are_not_damaged(tmp_path, dtype, message):
    torch = torch_oracle.require_torch()
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_of(torch, getattr(torch, dtype)))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse(read_weights(path), {"conv1.weight": (2, 1, 3, 3)}, {})


def test_a_place_that_cannot_be_read_or_written(tmp_path):
    torch_oracle.require_torch()
    missing = tmp_path / "none.pth"
    assert refused(read_weights, missing) == (
        f"cannot read {missing}: No such file or directory"
    )
    (tmp_path / "folder.pth").mkdir()
    assert refused(read_weights, tmp_path / "folder.pth").endswith(": Is a directory")
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "w.pkl"
    assert refused(write_weights, inside, ARRAYS) == (
        f"cannot write {inside}: Not a directory"
    )
    folder = tmp_path / "folder.pkl"
    folder.mkdir()
    assert refused(write_weights, folder, ARRAYS, force=True) == (
        f"cannot write {folder}: Is a directory"
    )
    assert not list(tmp_path.glob("*.unfinished"))


def test_nothing_is_overwritten_unasked(tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(b"mine")
    assert refused(write_weights, path, ARRAYS) == (
        f"expected a new file, got {path}, which exists; name another file, or "
        "--force to replace it"
    )
    assert path.read_bytes() == b"mine"
    write_weights(path, ARRAYS, force=True)
    assert path.read_bytes() != b"mine"


def test_endings():
    assert refused(check_writable, "w.npz") == (
        "expected a name that ends in .pth, .pt, .tar, .safetensors, .pkl, got w.npz: "
        "no other can be written"
    )
    # A plain pickle cannot be read without running what is in it.
    assert refused(read_weights, "w.pkl") == (
        "expected a name that ends in .pth, .pt, .tar, .ckpt, .bin, .safetensors, got "
        "w.pkl: no other can be read"
    )


@pytest.mark.parametrize(
    "suffix, package",
    [(".pth", "torch"), (".safetensors", "safetensors")],
)
@pytest.mark.parametrize("action", [read_weights, check_writable])
def test_a_missing_package_says_how_to_get_it(monkeypatch, action, suffix, package):
    for name in (package, f"{package}.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    assert refused(action, f"w{suffix}") == (
        f"{suffix}: expected the package {package}, which is not installed; "
        "pip install 'caco_jax[torch]'"
    )


@pytest.mark.parametrize("in_ci", [True, False])
def test_in_ci_a_missing_package_is_a_failure(monkeypatch, in_ci):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "version_info", (3, 11, 9))
    monkeypatch.setenv("CI", "true" if in_ci else "")
    outcome = pytest.fail.Exception if in_ci else pytest.skip.Exception
    with pytest.raises(outcome, match="torch"):
        torch_oracle.require_torch()
