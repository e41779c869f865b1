"""Files of weights: PyTorch's, safetensors, and detectron2's pickle.

Nothing in a file is ever run: PyTorch's are read with ``weights_only``, and
detectron2's, plain pickles, are written but not read.
"""

import contextlib
import os
import pathlib
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from caco_jax._extras import require_package
from caco_jax.interop.layouts import Arrays, detectron2_names
from caco_jax.schema import UserError

_TORCH_SUFFIXES = (".pth", ".pt", ".tar")
DETECTRON2 = ".pkl"


def read_weights(path: str | os.PathLike) -> Any:
    """What a file holds: arrays or tensors by name, maybe nested.

    Args:
        path: ends in .pth, .pt, .tar (as .pth.tar) or .safetensors.

    Raises:
        UserError: it cannot be read, holds more than weights, or the package that
            reads it is not installed. Nothing in it was run.
    """
    path = pathlib.Path(path)
    read = _choose(_READERS, path, "read")
    try:
        return read(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"--file: cannot read {path}: {error.strerror}") from None
    except Exception as error:  # a damaged file makes the readers raise anything
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"--file: {path} holds {code[1]}, which is no array: nothing in it was "
                "run; want a file of weights alone"
            ) from None
        problem = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(
            f"--file: {path} is damaged or no file of weights ({problem}); fetch or "
            "save it again"
        ) from None


def write_weights(
    path: str | os.PathLike, arrays: Arrays, *, force: bool = False
) -> None:
    """Writes arrays under torchvision's names; the file is whole or not there.

    Args:
        path: ends in .pth, .pt or .tar for PyTorch, .safetensors, or .pkl for
            detectron2, whose names then replace torchvision's.
        arrays: by torchvision's name.
        force: replace a file that is there.

    Raises:
        UserError: as `check_writable` says.
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
    """Checks that `write_weights` knows the ending, and does not overwrite unasked.

    Raises:
        UserError: it is no such ending, the file is there already, or the package that
            writes it is not installed.
    """
    path = pathlib.Path(path)
    _choose(_WRITERS, path, "written")
    if path.suffix != DETECTRON2:
        _package(path.suffix)
    if os.path.exists(path) and not force:
        raise UserError(
            f"--file: {path} is there already; name another file, or --force to "
            "replace it"
        )


def _choose(table: Mapping[str, Any], path: pathlib.Path, verb: str) -> Any:
    if path.suffix not in table:
        raise UserError(
            f"--file: want a name that ends in {', '.join(table)}, got {path}: no "
            f"other can be {verb}"
        )
    return table[path.suffix]


def _package(suffix: str) -> Any:
    """The package of a kind of file, which is an extra."""
    name = "torch" if suffix in _TORCH_SUFFIXES else "safetensors.numpy"
    return require_package(name, purpose=f"--file: {suffix}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's warnings about old or odd files, which are ours to judge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read_torch(path: pathlib.Path) -> Any:
    torch = _package(path.suffix)
    with _quiet():
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: pathlib.Path) -> Any:
    return _package(path.suffix).load(path.read_bytes())


def _write_torch(file: Any, arrays: Arrays) -> None:
    torch = _package(".pth")
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    torch.save(tensors, file)


def _write_safetensors(file: Any, arrays: Arrays) -> None:
    # Others take a file without this word for TensorFlow's.
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

    NumPy 2 would name a module that releases before 1.26, which detectron2 is often
    used with, do not have.
    """

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            buffer = bytearray(value.tobytes())  # unlike bytes, writable when read
            return np.ndarray, (value.shape, value.dtype.str, buffer)
        return NotImplemented


_READERS: dict[str, Callable[[pathlib.Path], Any]] = {
    **dict.fromkeys(_TORCH_SUFFIXES, _read_torch),
    ".safetensors": _read_safetensors,
}
_WRITERS: dict[str, Callable[[Any, Arrays], None]] = {
    **dict.fromkeys(_TORCH_SUFFIXES, _write_torch),
    ".safetensors": _write_safetensors,
    DETECTRON2: _write_detectron2,
}
