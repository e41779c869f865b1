"""Import of arrays under PyTorch's names into a train state, and export."""

from collections.abc import Collection
from typing import Any

import numpy as np

from caco_jax.interop import BACKBONE, MEMORY, PARTS, PROJECTOR, TWINS, layouts
from caco_jax.interop.layouts import TARGET, Arrays, Weights
from caco_jax.interop.torch_weights import from_torch, to_torch, torch_shapes
from caco_jax.methods.method import Method, Network
from caco_jax.schema import UserError
from caco_jax.training.state import TrainState

_REMEDIES = {
    BACKBONE: "name the recipe of this network, or change --config.encoder",
    PROJECTOR: "set --config.encoder.projector and projector_widths to the file's, or "
    "leave it out by --parts=backbone",
}


def fill_state(
    state: TrainState,
    weights: Weights,
    parts: Collection[str] | None = None,
    *,
    method: Method,
) -> tuple[TrainState, list[str]]:
    """Replaces arrays of a state by those of a file; missing ones stay.

    If the file has no target encoder, its online encoder is used; if it has no
    adversarial branches of norms, the clean ones are used.

    Args:
        state: arrays or their shapes.
        weights: the weights of the file.
        parts: "backbone" (always), "projector", "bank" (or queue). None: all that the
            file has.
        method: method of the run, which states the array of its memory.

    Returns:
        The state, and the imported parts of `contents`.

    Raises:
        ValueError: a part has another shape than the state's, or is missing.
    """
    wanted = {BACKBONE, *(PARTS if parts is None else parts)}
    online = Network(state.players["encoder"], state.stats)
    network, taken = _fill_network(online, weights.online, wanted)
    players = {**state.players, "encoder": network.params}
    filled = state._replace(players=players, stats=network.stats)
    if state.target is not None:
        own = weights.target or weights.online
        target, _ = _fill_network(state.target, own, wanted)
        filled = filled._replace(target=target)
        taken += [TARGET] * bool(weights.target)
    if MEMORY in wanted:
        filled, memory = _fill_memory(filled, weights.memory, method)
        taken += memory
    there = {MEMORY if name == method.memory else name for name in taken}
    for part in sorted(set(parts or ()) - there):
        raise ValueError(f"it has no {part} for this run: leave that out of --parts")
    return filled, taken


def parts_of(content: Any, state: TrainState, *, encoder: str | None = None) -> Weights:
    """Finds the weights in a file's content, see `caco_jax.interop.layouts.parse`.

    Args:
        content: result of `caco_jax.interop.files.read_weights`.
        state: arrays or their shapes; its encoder is searched for.
        encoder: a part of the prefix of the encoder to import.
    """
    network = Network(state.players["encoder"], state.stats)
    backbone, projector = (
        torch_shapes(_variables(network, part)) for part in (BACKBONE, PROJECTOR)
    )
    return layouts.parse(content, backbone, projector, encoder=encoder)


def contents(state: TrainState, memory: str | None) -> list[str]:
    """The parts of a file of weights that fit a method with this memory."""
    target = [TARGET] * (state.target is not None)
    return [BACKBONE, PROJECTOR, *target, *([] if memory is None else [memory])]


def state_arrays(
    state: TrainState, parts: Collection[str], *, memory: str | None
) -> Arrays:
    """Parts of a state under PyTorch's names; the encoder is the online encoder.

    Args:
        state: state of any run.
        parts: any of `PARTS`; "twins" are the adversarial branches of norms.
        memory: name of the bank or queue in the run's method, if it has one.

    Raises:
        UserError: the state has no such part.
    """
    network = Network(state.players["encoder"], state.stats)
    arrays: Arrays = {}
    for part in (BACKBONE, PROJECTOR):
        if part in parts:
            arrays |= to_torch(_variables(network, part))
    twins = {name for name in arrays if "_adv." in name}
    if TWINS in parts and not twins:
        raise UserError(
            "--parts: expected no twins, got them for a run without adversarial norms"
        )
    if TWINS not in parts:
        arrays = {n: a for n, a in arrays.items() if n not in twins}
    return arrays | (_memory_arrays(state, memory) if MEMORY in parts else {})


def _fill_network(
    network: Network, arrays: Arrays, wanted: Collection[str]
) -> tuple[Network, list[str]]:
    head = {name: array for name, array in arrays.items() if name.startswith("fc.")}
    given = {
        BACKBONE: {n: a for n, a in arrays.items() if n not in head},
        PROJECTOR: head if PROJECTOR in wanted else {},
    }
    taken = [part for part in given if part == BACKBONE or given[part]]
    for part in taken:
        filled = _fill_part(_variables(network, part), given[part], _REMEDIES[part])
        network = Network(
            {**network.params, **filled["params"]},
            {**network.stats, **filled.get("batch_stats", {})},
        )
    return network, taken


def _variables(network: Network, part: str) -> dict[str, Any]:
    """The variables of the backbone or of the projector alone."""
    collections = {"params": network.params, "batch_stats": network.stats}
    return {
        name: {part: tree[part]} for name, tree in collections.items() if part in tree
    }


def _fill_part(template: Any, arrays: Arrays, remedy: str) -> dict[str, Any]:
    if not any("_adv." in name for name in arrays):
        for twin in torch_shapes(template):
            clean = twin.replace("_adv.", ".")
            if twin != clean and clean in arrays:
                arrays = {**arrays, twin: arrays[clean]}
    try:
        return from_torch(arrays, template)
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from None


def _fill_memory(
    state: TrainState, arrays: Arrays, method: Method
) -> tuple[TrainState, list[str]]:
    """Replaces the bank or queue of a state by the file's, if it has one."""
    name = method.memory
    if name is None:
        return state, []
    size = method.row_sharded[name]
    if name in state.players and layouts.BANK in arrays:
        rows = _rows(arrays, layouts.BANK, state.players[name], size)
        return state._replace(players={**state.players, name: rows}), [name]
    if name in state.extra and layouts.QUEUE in arrays:
        rows = _rows(arrays, layouts.QUEUE, state.extra[name], size)
        place = arrays.get(layouts.QUEUE_PLACE, np.zeros(1, np.int64))
        if place.size != 1 or place.dtype.kind != "i":
            raise ValueError(f"{layouts.QUEUE_PLACE}: expected one integer")
        extra = {name: rows, "next_row": np.int32(place.item() % len(rows))}
        return state._replace(extra=extra), [name]
    return state, []


def _rows(memory: Arrays, name: str, like: Any, size: str) -> np.ndarray:
    """Converts the columns [D, K] of a file to rows [K, D]."""
    columns, wanted = memory[name], like.shape[::-1]
    if columns.shape != wanted:
        raise ValueError(
            f"{name}: expected {wanted} as in the run, got {columns.shape}; set "
            f"--config.method.{size} to that of the file, or leave it out by --parts"
        )
    return np.ascontiguousarray(columns.T, like.dtype)


def _memory_arrays(state: TrainState, name: str | None) -> Arrays:
    def columns(rows: Any) -> np.ndarray:
        return np.ascontiguousarray(np.asarray(rows).T)

    if name is None:
        raise UserError(
            "--parts: expected no bank, got it for a run without a bank or queue"
        )
    if name in state.players:
        return {layouts.BANK: columns(state.players[name])}
    place = np.asarray(state.extra["next_row"], np.int64).reshape(1)
    queue = columns(state.extra[name])
    return {layouts.QUEUE: queue, layouts.QUEUE_PLACE: place}
