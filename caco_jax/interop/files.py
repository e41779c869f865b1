"""Reading and writing files of weights: PyTorch, safetensors, detectron2's pickle.

No code in a file is ever run: PyTorch's files are read with ``weights_only``, where
other classes and functions than PyTorch's become `Unread` objects; detectron2's files,
plain pickles, are written but not read.
"""

import contextlib
import errno
import importlib
import os
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from caco_jax._extras import require_package
from caco_jax.interop.layouts import Arrays, detectron2_names
from caco_jax.schema import UserError

_TORCH_SUFFIXES = (".pth", ".pt", ".tar")
_TORCH_READ = (*_TORCH_SUFFIXES, ".ckpt", ".bin")  # suffixes of Lightning and others
DETECTRON2 = ".pkl"
# First bytes of files without weights -> what they are, and what to do.
_NO_WEIGHTS = {
    rb"$": "is empty; fetch or save it again",
    rb"version https://git-lfs": "is a Git LFS pointer and not the file that it stands "
    "for; fetch that with git lfs pull",
    rb"\s*<": "is a web page and no file of weights; fetch the file itself, for which "
    "the address may require a login or a confirmation",
    rb"\s*[{\[]": "is JSON and no file of weights; name the file of arrays beside it",
    rb"[\t-\r -~]{8,}\Z": "is text and no file of weights; fetch the file itself",
    rb"\x1f\x8b|BZh|\xfd7zXZ|.{257}ustar": "is an archive; unpack it and name the file "
    "of weights in it",
    rb"\x89HDF|.{8}TF": "is of another framework; save its arrays under torchvision's "
    "names as .safetensors",
}
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
# safetensors' names of dtypes.
_DTYPES = {
    **{"BOOL": np.bool_, "BF16": ml_dtypes.bfloat16},
    **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
    **{"F16": np.float16, "F32": np.float32, "F64": np.float64, "C64": np.complex64},
    **{
        f"{k.upper()}{n}": np.dtype(f"{k}{n // 8}")
        for k in "iu"
        for n in (8, 16, 32, 64)
    },
}


class Unread:
    """Replaces an object in a file that is no array; the class has its name.

    Nothing that the file asks for is done, except that its state is stored.
    """

    saved_state: Any = None

    def __new__(cls, *args: Any, **options: Any) -> "Unread":
        """Accepts any arguments and ignores them."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        """Accepts any arguments and ignores them."""

    def __setstate__(self, state: Any) -> None:
        self.saved_state = state


def read_weights(path: str | os.PathLike) -> Any:
    """Reads a file: arrays or tensors by name, possibly nested.

    Args:
        path: ends in .pth, .pt, .tar (as .pth.tar), .ckpt, .bin or .safetensors;
            PyTorch and safetensors files are distinguished by their content.

    Returns:
        The content; objects that are no arrays, such as a program's options, are
        `Unread`.

    Raises:
        UserError: the file cannot be read, has no weights, or the package that reads it
            is not installed. Nothing in it was run.
    """
    path = pathlib.Path(path)
    read = _choose(_READERS, path, "read")
    _package(".safetensors" if read is _read_safetensors else ".pth")
    try:
        with path.open("rb") as file:
            beginning = file.read(300)
        for pattern, problem in _NO_WEIGHTS.items():
            if re.match(pattern, beginning, re.DOTALL):
                raise UserError(f"--file: {path} {problem}")
        if beginning[8:9] == b"{":
            read = _read_safetensors
        elif beginning.startswith((_ZIP, _PICKLE)):
            read = _read_torch
        return read(path)
    except UserError:
        raise
    except Exception as error:  # the readers may raise anything for a damaged file
        # In a truncated file PyTorch seeks to a negative offset.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            reason = error.strerror
            raise UserError(f"--file: cannot read {path}: {reason}") from None
        raise UserError(f"--file: {path} {_problem(path, error)}") from None


def _problem(path: pathlib.Path, error: Exception) -> str:
    """The message for a reader's error."""
    text = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())
    if code := re.search(rf"(?:GLOBAL |{__name__}\.)([\w.]+)", text):
        return (
            f"holds {code[1]}, which is no array: nothing in it was run; expected a "
            "file of weights alone"
        )
    if "TorchScript" in text:
        return "is a TorchScript program; save its state_dict() with torch.save"
    with path.open("rb") as file:
        beginning = file.read(2)
    if "magic number" in text or re.match(rb"\x80[\x03-\x05]", beginning):
        return (
            "is a plain pickle, which is not read; save it with torch.save or as "
            ".safetensors"
        )
    if zipfile.is_zipfile(path) and not _is_torch_zip(path):
        return (
            "is a zip archive, not one of PyTorch's; unpack it and name the file in it"
        )
    if "Unsupported operand" in text and beginning[:1] not in (_ZIP[:1], _PICKLE):
        return "is neither PyTorch's nor safetensors; fetch or save it again as such"
    return (
        f"is damaged or no file of weights ({text[:100] or type(error).__name__}); "
        "fetch or save it again"
    )


def _is_torch_zip(path: pathlib.Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def write_weights(
    path: str | os.PathLike, arrays: Arrays, *, force: bool = False
) -> None:
    """Writes arrays under torchvision's names, atomically.

    Args:
        path: ends in .pth, .pt or .tar for PyTorch, .safetensors, or .pkl for
            detectron2, whose names then replace torchvision's.
        arrays: by torchvision's name.
        force: whether to replace a file that exists.

    Raises:
        UserError: see `check_writable`.
    """
    path = pathlib.Path(path)
    check_writable(path, force=force)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        if not os.path.exists(path.parent):
            path.parent.mkdir(parents=True)
        with unfinished.open("wb") as file:
            _WRITERS[path.suffix](file, arrays)
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise UserError(f"--file: cannot write {path}: {error.strerror}") from None


def check_writable(path: str | os.PathLike, *, force: bool = False) -> None:
    """Checks that `write_weights` can write a file of this name.

    Raises:
        UserError: the suffix is unknown, the file exists, or the package that writes it
            is not installed.
    """
    path = pathlib.Path(path)
    _choose(_WRITERS, path, "written")
    if path.suffix != DETECTRON2:
        _package(path.suffix)
    if os.path.exists(path) and not force:
        raise UserError(
            f"--file: expected a new file, got {path}, which exists; name another "
            "file, or --force to replace it"
        )


def _choose(table: Mapping[str, Any], path: pathlib.Path, verb: str) -> Any:
    suffix = path.suffix.lower() if verb == "read" else path.suffix
    if suffix not in table:
        raise UserError(
            f"--file: expected a name that ends in {', '.join(table)}, got {path}: no "
            f"other can be {verb}"
        )
    return table[suffix]


def _package(suffix: str) -> Any:
    """The optional package of a kind of file."""
    name = "torch" if suffix in _TORCH_READ else "safetensors.numpy"
    return require_package(name, purpose=f"--file: {suffix}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences PyTorch's warnings about unusual files; we check them ourselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read_torch(path: pathlib.Path) -> Any:
    torch = _package(".pth")
    unread: dict[str, Any] = {"collections.defaultdict": lambda *_: {}}
    while True:
        stand_ins = [(stand_in, name) for name, stand_in in unread.items()]
        with _quiet(), torch.serialization.safe_globals(stand_ins):
            try:
                # Not a path: PyTorch would choose the format by its suffix.
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                found = re.search(r"GLOBAL (\S+) was not an allowed", str(error))
                if found is None or found[1] in unread:
                    raise
        name = found[1]
        stand_in = type(name, (Unread,), {})
        # PyTorch's message omits "builtins.".
        unread |= {name: stand_in, f"builtins.{name}": type(name, (Unread,), {})}


def _read_safetensors(path: pathlib.Path) -> Any:
    _package(".safetensors")
    arrays = importlib.import_module("safetensors").deserialize(path.read_bytes())
    return {name: _safetensors_array(**entry) for name, entry in arrays}


def _safetensors_array(dtype: str, shape: list[int], data: bytes) -> Any:
    if dtype not in _DTYPES:
        return type(dtype, (Unread,), {})()
    return np.frombuffer(data, _DTYPES[dtype]).reshape(shape)


def _write_torch(file: Any, arrays: Arrays) -> None:
    torch = _package(".pth")
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    torch.save(tensors, file)


def _write_safetensors(file: Any, arrays: Arrays) -> None:
    # Without this entry other readers assume TensorFlow.
    save = _package(".safetensors").save
    file.write(save(arrays, metadata={"format": "pt"}))


def _write_detectron2(file: Any, arrays: Arrays) -> None:
    content = {
        "model": detectron2_names(arrays),
        "__author__": "caco_jax",
        "matching_heuristics": True,
    }
    _Pickler(file, protocol=4).dump(content)


class _Pickler(pickle.Pickler):
    """Pickles arrays so that every release of NumPy can read them.

    NumPy 2 would name a module that releases before 1.26 do not have, which detectron2
    is often used with.
    """

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            buffer = bytearray(value.tobytes())  # unlike bytes, writable when read
            return np.ndarray, (value.shape, value.dtype.str, buffer)
        return NotImplemented


_READERS: dict[str, Callable[[pathlib.Path], Any]] = {
    **dict.fromkeys(_TORCH_READ, _read_torch),
    ".safetensors": _read_safetensors,
}
_WRITERS: dict[str, Callable[[Any, Arrays], None]] = {
    **dict.fromkeys(_TORCH_SUFFIXES, _write_torch),
    ".safetensors": _write_safetensors,
    DETECTRON2: _write_detectron2,
}
