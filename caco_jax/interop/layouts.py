"""What the checkpoints of MoCo, AdCo and CaCo hold, and detectron2's names.

These names are read, D being the embedding's width and K the number of entries:

- ``state_dict``: in all three, ``module.encoder_q.*`` is the online encoder and
  ``module.encoder_k.*`` the target encoder. MoCo's also has ``module.queue`` [D, K], a
  key a column, and ``module.queue_ptr`` [1], the column to be replaced next.
- ``Memory_Bank`` of AdCo and CaCo: ``W`` [D, K], an entry a column. Its velocity ``v``
  and the state of the encoder's ``optimizer`` are not read: another schedule begins.
- A state dict by itself, as torchvision gives it: ``conv1.weight``, or with ``module.``
  before every name. ``Memory_Bank.W``, ``queue`` and ``queue_ptr`` beside them are what
  `caco_jax.interop.workdirs.export_run` adds.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from caco_jax.interop.torch_weights import COUNTER

BANK, QUEUE, QUEUE_PLACE = "Memory_Bank.W", "queue", "queue_ptr"
_MEMORY = (BANK, QUEUE, QUEUE_PLACE)
_ONLINE, _TARGET = "encoder_q.", "encoder_k."
_PREFIXES = (f"module.{_ONLINE}", _ONLINE, "module.", "")
# Every ResNet has it; under which prefix it lies says what kind of file this is.
_FIRST = "conv1.weight"

Arrays = dict[str, np.ndarray]


class Weights(NamedTuple):
    """The arrays of a file under torchvision's names.

    Attributes:
        prefix: what stood before the online encoder's names.
        online: the online encoder's.
        target: the target encoder's; empty where there is none.
        memory: those of `BANK`, `QUEUE` and `QUEUE_PLACE` that are there.
    """

    prefix: str
    online: Arrays
    target: Arrays
    memory: Arrays

    @property
    def is_checkpoint(self) -> bool:
        """Whether its head is a projector; otherwise it may be a classifier."""
        return self.prefix.endswith(_ONLINE)


def parse(content: Any) -> Weights:
    """The weights in what a file held.

    Args:
        content: a checkpoint or a state dict: arrays or tensors by name.

    Raises:
        ValueError: it holds no ResNet of torchvision's names, or what should be an
            array is none, or is not finite.
    """
    state = content.get("state_dict", content) if _is_mapping(content) else content
    if not _is_mapping(state):
        raise ValueError(f"want arrays by name, got {type(state).__name__}")
    names = [name for name in state if isinstance(name, str)]
    found = [prefix for prefix in _PREFIXES if prefix + _FIRST in names]
    if not found:
        raise ValueError(
            f"want a ResNet under torchvision's names, got no {_FIRST} under any of "
            f"{', '.join(_PREFIXES[:-1])}; the names begin with {names[:1]}"
        )
    prefix = found[0]
    root = prefix.removesuffix(_ONLINE)
    memory = _under(state, root, only=_MEMORY)
    bank = content.get("Memory_Bank")
    if _is_mapping(bank) and "W" in bank:
        memory[BANK] = _array(BANK, bank["W"])
    online = _under(state, prefix)
    target = _under(state, root + _TARGET) if prefix != root else {}
    return Weights(prefix, _without(online, _MEMORY), target, memory)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _under(state: Mapping[Any, Any], prefix: str, only: tuple[str, ...] = ()) -> Arrays:
    """The arrays whose names start with the prefix, without it."""
    arrays = {}
    for name, value in state.items():
        short = str(name).removeprefix(prefix)
        if str(name).startswith(prefix) and (not only or short in only):
            arrays[short] = _array(str(name), value)
    return arrays


def _without(arrays: Arrays, names: tuple[str, ...]) -> Arrays:
    return {name: array for name, array in arrays.items() if name not in names}


def _array(name: str, value: Any) -> np.ndarray:
    """An array, or a PyTorch tensor, as a finite NumPy array."""
    if hasattr(value, "detach"):
        try:
            value = _from_tensor(value.detach())
        except (TypeError, RuntimeError) as error:
            problem = str(error).split(".")[0]
            raise ValueError(f"{name}: want a dense tensor: {problem}") from None
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name}: want an array, got {type(value).__name__}")
    if name.endswith((COUNTER, QUEUE_PLACE)):
        return value
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{name}: want floats, got {value.dtype}")
    if not np.isfinite(value).all():
        raise ValueError(f"{name}: want finite numbers, got NaN or infinity")
    return value


def _from_tensor(tensor: Any) -> np.ndarray:
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has none
        tensor = tensor.float()
    return tensor.cpu().numpy()


def detectron2_names(arrays: Arrays) -> Arrays:
    """A backbone's arrays under the names of detectron2's ResNet.

    ``conv1`` and ``bn1`` outside of the stages become ``stem.conv1`` and
    ``stem.conv1.norm``, ``layer1`` becomes ``res2``, a block's ``bn2`` its
    ``conv2.norm``, and the down-sampling ``shortcut`` and ``shortcut.norm``.
    """
    return {_detectron2_name(name): array for name, array in arrays.items()}


def _detectron2_name(name: str) -> str:
    stage, dot, rest = name.partition(".")
    if stage.startswith("layer"):
        name = f"res{int(stage.removeprefix('layer')) + 1}{dot}{rest}"
    else:
        name = f"stem.{name}"
    name = re.sub(r"\bbn(\d)\b", r"conv\1.norm", name)
    name = name.replace("downsample.0", "shortcut")
    return name.replace("downsample.1", "shortcut.norm")
