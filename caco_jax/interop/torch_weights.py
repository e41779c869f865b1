"""Conversion of weights to and from PyTorch, under torchvision's and timm's names.

The names of a ResNet are torchvision's ("layer1.0.conv1.weight"), those of a ViT timm's
("blocks.0.attn.qkv.weight"); those of a projector are "fc." and the layer's place in
the stack ("fc.0.weight"), as MoCo's, AdCo's and CaCo's checkpoints have them. The
adversarial twin of a norm "bn1" is "bn1_adv". Neither function needs PyTorch: they
exchange NumPy arrays, and accept CPU tensors.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

COUNTER = "num_batches_tracked"
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_MODULES = [
    (r"backbone", ""),
    (r"projector", "fc"),
    (r"block(\d+)", r"\1"),
    (r"downsample_conv", "downsample.0"),
    (r"downsample_bn", "downsample.1"),
    (r"(?:linear|norm)_(\d+)", r"\1"),
    (r"patches", "patch_embed.proj"),
    (r"blocks_(\d+)", r"blocks.\1"),
    (r"(attn|mlp)_(\w+)", r"\1.\2"),
]

Path = tuple[str, ...]
Shapes = Mapping[str, tuple[int, ...]]


def to_torch(
    variables: Mapping[str, Any], *, prefix: str = ""
) -> dict[str, np.ndarray]:
    """Makes the state dict of an encoder, or of a backbone alone.

    Load it with ``model.load_state_dict({k: torch.from_numpy(v) ...})``; where the
    encoder has adversarial twins, drop the names with "_adv" first.

    Args:
        variables: the collections "params" and "batch_stats" of an `Encoder`, a
            `ResNet` or a `ViT`.
        prefix: put before every name, such as "module.encoder_q.".

    Returns:
        Arrays by name: convolutions [out, in, height, width], linear layers
        [out, in], and a zero count of batches for each running mean.
    """
    state = {}
    for path, leaf in _flatten(variables).items():
        name = prefix + _torch_name(path)
        state[name] = _to_torch_layout(np.asarray(leaf))
        if path[-1].endswith("mean"):
            counter = name.removesuffix("running_mean") + COUNTER
            state[counter] = np.zeros((), np.int64)
    return state


def from_torch(
    state_dict: Mapping[str, Any], template: Mapping[str, Any], *, prefix: str = ""
) -> dict[str, Any]:
    """Makes variables of a state dict, in the structure of a template.

    Args:
        state_dict: arrays or CPU tensors by PyTorch name. Counts of batches are
            ignored, as are names that do not start with `prefix`.
        template: variables of the network to fill, or their shapes, as
            ``jax.eval_shape(encoder.init, ...)`` gives them.
        prefix: prefix of the names, such as "module.encoder_q.".

    Returns:
        NumPy arrays in the template's structure, shapes and dtypes.

    Raises:
        ValueError: the names or shapes are of another network. The first such name is
            given with both shapes: one whose shapes differ, or else one that is
            missing, or else one that is not expected.
    """
    given = {
        name.removeprefix(prefix): np.asarray(array)
        for name, array in state_dict.items()
        if name.startswith(prefix) and not name.endswith(COUNTER)
    }
    leaves = _flatten(template)
    _check_shapes(
        {n: a.shape for n, a in given.items()}, torch_shapes(template), prefix
    )
    filled = {
        path: _from_torch_layout(given[_torch_name(path)]).astype(leaf.dtype)
        for path, leaf in leaves.items()
    }
    return traverse_util.unflatten_dict(filled)


def torch_shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a state dict of these variables, or of their shapes.

    Counts of batches are left out.
    """
    leaves = _flatten(variables).items()
    return {_torch_name(path): _torch_shape(leaf.shape) for path, leaf in leaves}


def _check_shapes(given: Shapes, wanted: Shapes, prefix: str) -> None:
    other = [n for n in given if n in wanted and given[n] != wanted[n]]
    missing = [n for n in wanted if n not in given]
    unexpected = [n for n in given if n not in wanted]
    if not (names := other + missing + unexpected):
        return
    first, *more = names
    raise ValueError(
        f"{prefix}{first}: expected {wanted.get(first, 'none')} as in the network, got "
        f"{given.get(first, 'none')}" + (f"; {len(more)} more differ" if more else "")
    )


def _flatten(variables: Mapping[str, Any]) -> dict[Path, Any]:
    return traverse_util.flatten_dict(
        {
            name: variables[name]
            for name in ("params", "batch_stats")
            if name in variables
        }
    )


def _torch_name(path: Path) -> str:
    """("params", "backbone", "layer1", "block0", "conv1", "kernel") -> its name."""
    _, *modules, leaf = path
    for pattern, name in _MODULES:
        modules = [re.sub(rf"^{pattern}$", name, module) for module in modules]
    if leaf.startswith("adversarial_"):
        modules[-1] += "_adv"
    leaf = leaf.removeprefix("adversarial_")
    modules.append(_LEAVES.get(leaf, leaf))
    return ".".join(filter(None, modules))


def _to_torch_layout(array: np.ndarray) -> np.ndarray:
    """HWIO -> OIHW, [in, out] -> [out, in]; arrays of one or three axes: unchanged."""
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(array.ndim)
    return np.ascontiguousarray(array.transpose(axes) if axes else array).reshape(
        _torch_shape(array.shape)
    )


def _from_torch_layout(array: np.ndarray) -> np.ndarray:
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(array.ndim)
    return array.transpose(axes) if axes else array


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in PyTorch's layout."""
    if len(shape) == 4:
        return shape[3], shape[2], shape[0], shape[1]
    return shape[::-1] if len(shape) == 2 else shape
