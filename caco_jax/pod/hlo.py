"""A parser of optimised HLO text, for memory traffic and loops.

XLA prints an optimised program as computations of instructions, one a line. What calls
a computation stands after it, so one walk from the last to the first tells how often
each runs.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}
_LEAF = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_NAMED = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = ")
_CALLS = re.compile(r"(?:calls|to_apply|body|branch_computations)=(%[\w.-]+|\{[^}]*\})")
_ENDS_ONLY = ("async-done", "async-update")  # repeat what async-start calls


class Leaf(NamedTuple):
    """One array of an instruction's result.

    Attributes:
        dtype: as XLA writes it, such as "f32".
        dims: its shape.
        space: where it lies: 0 is the device's main memory, others are on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def num_bytes(self) -> int:
        """Its size, without padding."""
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype, int(digits[0]) if digits else 0)
        return math.prod(self.dims) * bits // 8


class Instruction(NamedTuple):
    """One line.

    Attributes:
        name: unique in the program.
        leaves: the arrays of its result, more than one for a tuple.
        opcode: such as "all-reduce".
        arguments: what stands between its parentheses.
        attributes: the rest of the line.
    """

    name: str
    leaves: tuple[Leaf, ...]
    opcode: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the instructions, of the same computation, that it reads."""
        return tuple(re.findall(r"%([\w.-]+)", self.arguments))

    @property
    def op_name(self) -> str:
        """Where in the traced program it comes from; "" where XLA does not say."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that it runs, a loop's condition left out."""
        if self.opcode in _ENDS_ONLY:
            return ()
        names = (m[1] for m in _CALLS.finditer(self.attributes))
        return tuple(name for part in names for name in re.findall(r"%([\w.-]+)", part))


Computation = Mapping[str, Instruction]


class Program(NamedTuple):
    """A compiled program.

    Attributes:
        computations: by name, callers after what they call; each by instruction name.
        entry: the name of the one that runs first.
        num_partitions: devices that run it together.
    """

    computations: Mapping[str, Computation]
    entry: str
    num_partitions: int


def parse(text: str) -> Program:
    """The program that `jax.stages.Compiled.as_text` printed.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header and " = " not in line.split("(", 1)[0]:
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif instruction := _instruction(line):
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("expected the text of an HLO module, got one without ENTRY")
    partitions = re.search(r"num_partitions=(\d+)", text.split("\n", 1)[0])
    return Program(computations, entry, int(partitions[1]) if partitions else 1)


def _instruction(line: str) -> Instruction | None:
    named = _NAMED.match(line)
    if named is None:
        return None
    shape, rest = _split_shape(line[named.end() :])
    opcode, _, rest = rest.partition("(")
    arguments, attributes = _split_closing(rest)
    return Instruction(named[1], leaves(shape), opcode.strip(), arguments, attributes)


def _split_shape(text: str) -> tuple[str, str]:
    """A result's shape, and what comes after it."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    shape, rest = _split_closing(text[1:])
    return shape, rest


def _split_closing(text: str) -> tuple[str, str]:
    """What stands before the parenthesis that closes an open one, and after it."""
    depth = 1
    for end, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[:end], text[end + 1 :]
    return text, ""


def leaves(shape: str) -> tuple[Leaf, ...]:
    """The arrays that a shape, of an array or of a tuple, is made of."""
    found = []
    for dtype, dims, layout in _LEAF.findall(shape):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(size) for size in dims.split(",") if size)
        found.append(Leaf(dtype, sizes, int(space[1]) if space else 0))
    return tuple(found)


def trip_count(program: Program, loop: Instruction) -> int | None:
    """How often a `while` runs its body; None where the text does not tell."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%([\w.-]+)", loop.attributes)
    if condition is None:
        return None
    bounds = {
        int(instruction.arguments)
        for instruction in program.computations[condition[1]].values()
        if instruction.opcode == "constant" and instruction.arguments.isdecimal()
    }
    return bounds.pop() if len(bounds) == 1 else None


def executions(program: Program) -> dict[str, int]:
    """How often each computation runs; loops whose length is unknown count once."""
    times = dict.fromkeys(program.computations, 0)
    times[program.entry] = 1
    for name in reversed(list(program.computations)):
        for instruction in program.computations[name].values():
            turns = 1
            if instruction.opcode == "while":
                turns = trip_count(program, instruction) or 1
            for called in instruction.called:
                times[called] += times[name] * turns
    return times


def origin(
    program: Program, computation: Computation, name: str, depth: int = 6
) -> str:
    """The op_name of an instruction or, where it has none, of what it was made from."""
    instruction = computation.get(name)
    if instruction is None or depth == 0:
        return ""
    if instruction.op_name:
        return instruction.op_name
    for called in instruction.called:
        names = [inner.op_name for inner in program.computations[called].values()]
        if said := [inner for inner in names if "/" in inner]:
            return said[-1]
    found = (origin(program, computation, o, depth - 1) for o in instruction.operands)
    return next((op_name for op_name in found if op_name), "")


def total_bytes(result: Sequence[Leaf]) -> int:
    """The size of a result."""
    return sum(leaf.num_bytes for leaf in result)
