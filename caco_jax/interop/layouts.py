"""Finds the arrays of a network in a file of weights; detectron2's names.

No wrapper is known by name. A file is read as one flat table, with the names of nested
parts joined by dots, and an encoder is any prefix that the network's own names follow,
torchvision's for a ResNet, timm's for a ViT: ``state_dict.module.encoder_q.``,
``teacher.backbone.``, ``_orig_mod.`` or none. An encoder that was wrapped in a
`Sequential` has numbers as names and is matched by the order of its parts. Of several
encoders the first one is imported whose prefix names no teacher, momentum encoder or
the like; the first one whose prefix does becomes the target encoder.

Also read are, for embeddings of width D and K entries:

- the projector: ``fc.*`` under the encoder's prefix, or arrays of the same names and
  shapes elsewhere, as ``projector.*``;
- ``queue`` [D, K] of MoCo, one key in each column, and ``queue_ptr`` [1], the column to
  be replaced next;
- ``Memory_Bank.W`` [D, K] of AdCo and CaCo, one entry in each column. Its velocity
  ``v`` and the state of the encoder's ``optimizer`` are not read: a new schedule
  starts.
"""

import collections
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from caco_jax.interop import BACKBONE, MEMORY, PROJECTOR
from caco_jax.interop.torch_weights import COUNTER, Shapes
from caco_jax.schema import UserError

BANK, QUEUE, QUEUE_PLACE = "Memory_Bank.W", "queue", "queue_ptr"
_MEMORY = (BANK, QUEUE, QUEUE_PLACE)
TARGET = "target encoder"
_ONLINE, _HEAD = "encoder_q.", "fc."
# Words in the names of encoders that are moving averages of another one.
_FOLLOWERS = {
    "averaged",
    "avg",
    "ema",
    "k",
    "key",
    "momentum",
    "shadow",
    "target",
    "teacher",
}

Arrays = dict[str, np.ndarray]
Names = dict[str, str]  # the network's own name -> the file's


class Weights(NamedTuple):
    """The arrays of a file under the names of the network.

    Attributes:
        prefix: prefix of the online encoder's names.
        online: arrays of the online encoder; those of its projector start with "fc.".
        target: arrays of the target encoder; empty if there is none.
        memory: those of `BANK`, `QUEUE` and `QUEUE_PLACE` that the file has.
        encoders: the prefixes of all encoders, in the file's order.
        sources: names in the file of the arrays of each part.
        names: names of all arrays in the file.
    """

    prefix: str
    online: Arrays
    target: Arrays
    memory: Arrays
    encoders: tuple[str, ...]
    sources: dict[str, set[str]]
    names: tuple[str, ...]

    def left_out(self, parts: Collection[str]) -> dict[str, int]:
        """Number of arrays of the file that are in none of these parts, by prefix."""
        taken = set().union(*(self.sources[part] for part in parts))
        counts: collections.Counter[str] = collections.Counter()
        for name in self.names:
            if name not in taken and not name.endswith(COUNTER):
                shared = _shared(name, self.prefix)
                counts[shared + name.removeprefix(shared).partition(".")[0]] += 1
        return dict(counts)


class _Encoder(NamedTuple):
    """An encoder in a file; `names` are those of the backbone and similar ones."""

    prefix: str
    names: Names


def parse(
    content: Any,
    backbone: Shapes,
    projector: Shapes,
    *,
    encoder: str | None = None,
) -> Weights:
    """Finds the weights in the content of a file.

    Args:
        content: arrays or tensors by name, possibly nested.
        backbone: names and shapes of the network's backbone.
        projector: names and shapes of its projector, which start with "fc.".
        encoder: a part of the prefix of the encoder to import; None: see the module.

    Returns:
        float32 arrays, including names and shapes of a similar network that this one
        does not have.

    Raises:
        ValueError: the file has no such network, or an entry is no array or is not
            finite.
        UserError: there is no such encoder.
    """
    table = _flatten(content)
    below = _by_prefix(table)
    encoders = _encoders(below, table, backbone)
    if not encoders:
        raise ValueError(_why_none(table, backbone))
    online = _choose(encoders, encoder)
    others = [one for one in encoders if one != online and _follows(one.prefix)]
    target = others[0] if others else _Encoder("", {})
    memory = _memory_names(table, online.prefix)
    heads = [
        _head_names(below, table, one, projector) if one.names else {}
        for one in (online, target)
    ]
    sources = {
        BACKBONE: set(online.names.values()),
        PROJECTOR: set(heads[0].values()),
        TARGET: {*target.names.values(), *heads[1].values()},
        MEMORY: set(memory.values()),
    }

    def read(names: Names) -> Arrays:
        return {own: _array(name, table[name]) for own, name in names.items()}

    return Weights(
        online.prefix,
        read(online.names | heads[0]),
        read(target.names | heads[1]),
        read(memory),
        tuple(one.prefix for one in encoders),
        sources,
        tuple(name for name, value in table.items() if _is_array(value)),
    )


def _flatten(content: Any) -> dict[str, Any]:
    """Flattens nested mappings in order; each mapping is visited once."""
    table: dict[str, Any] = {}
    waiting, seen = [("", content)], set()
    while waiting:
        name, value = waiting.pop()
        inner = _inside(value)
        if inner is None:
            if value is not None:
                table[name] = value
        elif id(value) not in seen:
            seen.add(id(value))
            entries = [
                (f"{name}.{key}" if name else str(key), part) for key, part in inner
            ]
            waiting += reversed(entries)
    return table


def _inside(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """The named parts of a container; None if it is no container."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
        return enumerate(value)
    state = getattr(value, "saved_state", None)  # a module that was saved as an object
    if isinstance(state, Mapping) and isinstance(state.get("_modules"), Mapping):
        kinds = [state.get(kind) for kind in ("_parameters", "_buffers", "_modules")]
        return [
            pair for kind in kinds if isinstance(kind, Mapping) for pair in kind.items()
        ]
    return None


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Splits "a.b.c" into ("", "a.b.c"), ("a.", "b.c") and ("a.b.", "c")."""
    yield "", name
    for dot in re.finditer(r"\.", name):
        yield name[: dot.end()], name[dot.end() :]


def _by_prefix(table: Iterable[str]) -> dict[str, Names]:
    """The names below each prefix, without counts of batches."""
    below: dict[str, Names] = collections.defaultdict(dict)
    for name in table:
        if not name.endswith(COUNTER):
            for prefix, rest in _splits(name):
                below[prefix][rest] = name
    return below


def _encoders(
    below: Mapping[str, Names], table: Mapping[str, Any], wanted: Shapes
) -> list[_Encoder]:
    """Prefixes that have all of the network's names, or else most of them."""
    clean = {name for name in wanted if "_adv." not in name}
    numbered = {p: _numbered(names, clean) for p, names in below.items()}
    places = {p: numbered[p] or names for p, names in below.items()}
    whole = [p for p, names in places.items() if clean <= names.keys()]
    if not whole:
        most = max(places, key=lambda p: len(clean & places[p].keys()), default="")
        found = clean & places.get(most, {}).keys()
        if 2 * len(_parts(found)) < len(_parts(clean)):
            return []  # at most a block of another network
        whole = [most]

    def fits(prefix: str) -> bool:
        names = places[prefix]
        return all(_shape(table[names[n]]) == wanted[n] for n in clean & names.keys())

    chosen = [prefix for prefix in whole if fits(prefix)] or whole
    return [_Encoder(prefix, _alike(places[prefix], clean)) for prefix in chosen]


def _alike(names: Names, wanted: Collection[str]) -> Names:
    """The names that are in the network or in a larger one of its kind."""

    def kind(name: str) -> str:
        return re.sub(r"\d+", "#", name.partition(".")[0].removesuffix("_adv"))

    kinds = {kind(name) for name in wanted}
    return {own: name for own, name in names.items() if kind(own) in kinds}


def _numbered(names: Names, wanted: Collection[str]) -> Names:
    """Matches numbered parts to the network's names; empty if they differ."""
    if not any(name[0].isdecimal() for name in names if name):
        return {}
    given, free = _parts(names), _parts(wanted)
    found: Names = {}
    for number in sorted((part for part in given if part.isdecimal()), key=int):
        own = next((p for p in sorted(free) if free[p] == given[number]), None)
        if own is not None:
            leaves = free.pop(own)
            found |= {own + leaf: names[number + leaf] for leaf in leaves}
    return {} if free else found


def _parts(names: Iterable[str]) -> dict[str, set[str]]:
    """The names of a network's outermost parts, and the names below each."""
    parts: dict[str, set[str]] = collections.defaultdict(set)
    for name in names:
        part, dot, leaf = name.partition(".")
        parts[part].add(dot + leaf)
    return parts


def _choose(encoders: list[_Encoder], text: str | None) -> _Encoder:
    if text is None:
        return next((one for one in encoders if not _follows(one.prefix)), encoders[0])
    exact = [one for one in encoders if one.prefix.strip(".") == text.strip(".")]
    found = exact or [one for one in encoders if text in one.prefix]
    if len(found) != 1:
        known = ", ".join(one.prefix or "(no prefix)" for one in encoders)
        raise UserError(f"--encoder: expected a part of one of {known}; got {text}")
    return found[0]


def _follows(prefix: str) -> bool:
    """Whether a prefix names a moving average of another encoder."""
    return not _FOLLOWERS.isdisjoint(re.split(r"[._]", prefix.lower()))


def _memory_names(table: Mapping[str, Any], prefix: str) -> Names:
    """The bank or queue at the nearest prefix above the encoder."""
    found: Names = {}
    for root, _ in _splits(prefix):
        found |= {own: root + own for own in _MEMORY if root + own in table}
    return found


def _head_names(
    below: Mapping[str, Names],
    table: Mapping[str, Any],
    encoder: _Encoder,
    projector: Shapes,
) -> Names:
    """The projector's names; empty if the head is a classifier."""

    def fits(names: Names, own: str) -> bool:
        shapes = {own + rest: _shape(table[name]) for rest, name in names.items()}
        return bool(shapes) and shapes == projector

    head = below.get(encoder.prefix + _HEAD, {})
    if head.keys() - {"weight", "bias"}:
        return {_HEAD + rest: name for rest, name in head.items()}
    # One layer is a projector in MoCo v1 and a classifier in torchvision.
    if fits(head, f"{_HEAD}0."):
        return {f"{_HEAD}0.{rest}": name for rest, name in head.items()}
    if head and encoder.prefix.endswith(_ONLINE):
        return {_HEAD + rest: name for rest, name in head.items()}
    others = [
        prefix
        for prefix, names in below.items()
        if fits(names, _HEAD)
        and "pred" not in prefix
        and _follows(prefix) == _follows(encoder.prefix)
    ]
    if not others:
        return {}
    nearest = max(others, key=lambda prefix: len(_shared(prefix, encoder.prefix)))
    return {_HEAD + rest: name for rest, name in below[nearest].items()}


def _shared(name: str, prefix: str) -> str:
    """The longest common prefix that ends in a dot."""
    return max((p for p, _ in _splits(prefix) if name.startswith(p)), key=len)


def _why_none(table: Mapping[str, Any], backbone: Shapes) -> str:
    """The reason why no encoder was found."""
    arrays = [name for name, value in table.items() if _is_array(value)]
    if "" in table:
        return f"expected arrays by name, got {type(table['']).__name__}"
    if not arrays:
        return "expected arrays by name, got none; it holds no weights"
    if all(re.search(r"(^|\.)state\.\d+\.", name) for name in arrays):
        return (
            "it holds the state of an optimiser and no network; name the file of the "
            "model beside it"
        )
    wanted = min(backbone, key=lambda own: (own.count("."), -len(backbone[own])))
    return (
        f"expected a network with names as {wanted} under any prefix, got "
        f"{len(arrays)} arrays with names as {arrays[0]}: weights of another "
        "architecture, or under names that are not known here; name the recipe of "
        "this network, or save it under torchvision's names, or timm's of a ViT"
    )


def _is_array(value: Any) -> bool:
    return hasattr(value, "detach") or isinstance(value, np.ndarray)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def _array(name: str, value: Any) -> np.ndarray:
    """An array, or a PyTorch tensor, as a finite NumPy array: floats are float32."""
    if hasattr(value, "detach"):
        try:
            value = _from_tensor(value.detach())
        except (TypeError, RuntimeError) as error:
            problem = str(error).split(".")[0]
            raise ValueError(
                f"{name}: expected a dense tensor of floats: {problem}"
            ) from None
    if not isinstance(value, np.ndarray):
        kind = type(value).__name__
        remedy = "; save it as a tensor" if kind.startswith("numpy") else ""
        raise ValueError(f"{name}: expected an array, got {kind}{remedy}")
    if name.endswith(QUEUE_PLACE):
        return value
    # Floats of 8 bits or fewer are multiples of a scale that is stored elsewhere.
    if not jnp.issubdtype(value.dtype, jnp.floating) or value.dtype.itemsize < 2:
        raise ValueError(
            f"{name}: expected floats of 16, 32 or 64 bits, got {value.dtype}; save it "
            "in one of these"
        )
    with np.errstate(over="ignore"):
        value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return value


def _from_tensor(tensor: Any) -> np.ndarray:
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no bfloat16
        tensor = tensor.float()
    return tensor.cpu().numpy()


def detectron2_names(arrays: Arrays) -> Arrays:
    """Renames a backbone's arrays to those of detectron2's ResNet.

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
