"""Arithmetic and memory traffic of one chip in one run of a compiled program.

XLA's own cost analysis counts the body of a loop once, however often it runs, counts a
product in full precision like any other, and does not tell the chip's main memory from
its fast one. Here every instruction counts as often as it runs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from caco_jax.pod.hlo import (
    Computation,
    Instruction,
    Program,
    executions,
    origin,
    total_bytes,
)
from caco_jax.pod.parts import PARTS, part_of

# A matrix unit multiplies bfloat16 in one pass; float32 is split for more digits.
_PASSES = {"default": 1, "high": 3, "highest": 6}
_PRODUCTS = ("convolution", "dot")
# What moves nothing by itself: names, views, and the ends of what was begun elsewhere.
_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while"),
    *("conditional", "call", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "copy-done", "slice-done"),
    *("async-start", "async-update", "async-done"),
}
# Which array of its result a copy writes; the other is the one that it reads.
_DESTINATIONS = {"copy-start": 0, "slice-start": 1}
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclass(frozen=True)
class Work:
    """The work of one chip.

    Attributes:
        flops: additions and multiplications in products of matrices and convolutions.
        pass_flops: the same, each times the matrix unit's passes at its precision.
        hbm_bytes: read from and written to main memory.
    """

    flops: float = 0.0
    pass_flops: float = 0.0
    hbm_bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        """Both together."""
        return Work(
            self.flops + other.flops,
            self.pass_flops + other.pass_flops,
            self.hbm_bytes + other.hbm_bytes,
        )


def count(program: Program) -> dict[str, Work]:
    """The work of each part of a step, as the program's instructions say."""
    times = executions(program)
    inner = _inner(program)
    done = {part: Work() for part in PARTS}
    for name, computation in program.computations.items():
        if not times[name]:
            continue
        for instruction in computation.values():
            flops = moved = 0.0
            if instruction.opcode in _PRODUCTS:
                flops = times[name] * product_flops(instruction, computation)
            if name not in inner:
                moved = times[name] * hbm_bytes(program, computation, instruction)
            if flops or moved:
                part = part_of(origin(program, computation, instruction.name))
                done[part] += Work(flops, flops * _passes(instruction), moved)
    return done


def _inner(program: Program) -> set[str]:
    """Computations that are part of one instruction: they move nothing themselves."""
    control = ("while", "conditional", "call", "async-start")
    return {
        called
        for computation in program.computations.values()
        for instruction in computation.values()
        if instruction.opcode not in control
        for called in instruction.called
    }


def _passes(instruction: Instruction) -> int:
    said = re.search(r"operand_precision=\{(\w+)", instruction.attributes)
    return _PASSES.get(said[1], 1) if said else 1


def product_flops(instruction: Instruction, computation: Computation) -> float:
    """Additions and multiplications of a `convolution` or a `dot`.

    Where a window reaches into padding, or between the pixels of a dilated image,
    there is nothing to multiply.
    """
    left, right = (computation[name].leaves[0].dims for name in instruction.operands)
    out = instruction.leaves[0].dims
    if instruction.opcode == "dot":
        contracted = re.search(
            r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes
        )
        axes = [int(axis) for axis in contracted[1].split(",")] if contracted else []
        return 2.0 * np.prod(out, dtype=float) * np.prod([left[axis] for axis in axes])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert labels is not None
    by_label = [
        dict(zip(label, dims, strict=True))
        for label, dims in zip(labels.groups(), (left, right, out), strict=True)
    ]
    image, kernel, result = by_label
    pairs = 2.0 * result["b"] * result["f"] * kernel["i"]
    window = _window(instruction.attributes)
    for axis, label in enumerate(sorted(set(kernel) - {"i", "o"})):
        pairs *= _meetings(image[label], kernel[label], result[label], window, axis)
    return pairs


def _window(attributes: str) -> Mapping[str, list[list[int]]]:
    """The fields of a convolution's window, one entry a spatial axis."""
    inside = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in inside[1].split()) if inside else {}
    return {
        name: [[int(number) for number in axis.split("_")] for axis in text.split("x")]
        for name, text in fields.items()
    }


def _meetings(
    size: int, kernel: int, out: int, window: Mapping[str, list[list[int]]], axis: int
) -> int:
    """Pairs of a kernel's and an image's places that meet along one axis."""

    def field(name: str, default: int) -> int:
        return window[name][axis][0] if name in window else default

    spread = field("lhs_dilate", 1)
    steps = np.arange(out)[:, None] * field("stride", 1)
    taps = np.arange(kernel)[None, :] * field("rhs_dilate", 1)
    place = steps + taps - field("pad", 0)
    inside = (place >= 0) & (place <= (size - 1) * spread) & (place % spread == 0)
    return int(inside.sum())


def hbm_bytes(
    program: Program, computation: Computation, instruction: Instruction
) -> float:
    """What an instruction reads from main memory, and writes there."""
    if instruction.opcode in _FREE:
        return 0
    if instruction.opcode in _DESTINATIONS:
        return _copied(instruction)
    moved: float = _written(program, instruction)
    for position, name in enumerate(instruction.operands):
        operand = computation.get(name)
        if operand is not None and all(leaf.space == 0 for leaf in operand.leaves):
            moved += min(
                total_bytes(operand.leaves), _sliced(program, instruction, position)
            )
    return moved


def _copied(instruction: Instruction) -> int:
    """Bytes of a copy that goes on beside others: source and destination are named."""
    place = _DESTINATIONS[instruction.opcode]
    ends = (instruction.leaves[place], instruction.leaves[1 - place])
    return sum(ends[0].num_bytes for end in ends if end.space == 0)


def _written(program: Program, instruction: Instruction) -> int:
    """Bytes written; of an array that is updated in place, the part that changes."""
    outputs = sum(leaf.num_bytes for leaf in instruction.leaves if leaf.space == 0)
    for name in instruction.called:
        inner = program.computations[name]
        for one in inner.values():
            if one.opcode == "dynamic-update-slice":
                whole = total_bytes(one.leaves)
                part = total_bytes(inner[one.operands[1]].leaves)
                outputs -= max(min(whole, outputs) - part, 0)
    return outputs


def _sliced(program: Program, instruction: Instruction, position: int) -> float:
    """Bytes that are read of an operand, infinite where that is all of it."""
    if instruction.opcode in _SLICES and position == 0:
        return total_bytes(instruction.leaves)
    if instruction.opcode != "fusion" or not instruction.called:
        return np.inf
    inner = program.computations[instruction.called[0]]
    (parameter,) = (
        one.name
        for one in inner.values()
        if one.opcode == "parameter" and one.arguments == str(position)
    )
    return _read(inner, parameter)


def _read(inner: Computation, name: str) -> float:
    """Bytes that a fusion reads of an array in it, infinite where that is all of it."""
    read = 0.0
    for user in (one for one in inner.values() if name in one.operands):
        if user.opcode in _SLICES:
            read += total_bytes(user.leaves)
        elif user.operands == (name,) and _as_before(user, inner[name]):
            read += _read(inner, user.name)
        elif user.opcode != "dynamic-update-slice" or name != user.operands[0]:
            return np.inf
    return read


def _as_before(user: Instruction, operand: Instruction) -> bool:
    """Whether an array is only taken in another order, as far as its use needs it."""
    moved = user.opcode in ("bitcast", "copy", "fusion")
    return moved and total_bytes(user.leaves) == total_bytes(operand.leaves)
