"""The collectives of a compiled program: their size, count and part of the step.

XLA joins small collectives of one kind into one instruction; each array in it is
attributed by itself, to where the traced program made it.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from caco_jax.pod.hlo import (
    Computation,
    Instruction,
    Leaf,
    Program,
    executions,
    origin,
    trip_count,
)
from caco_jax.pod.parts import PARTS, part_of

# Bytes that a chip of n sends for each byte of the whole array, times n / (n - 1): in a
# ring, a sum goes around twice, once to add and once to tell.
_ROUNDS = {
    "all-gather": 1,
    "all-reduce": 2,
    "reduce-scatter": 1,
    "all-to-all": 1,
    "ragged-all-to-all": 1,
    "collective-broadcast": 1,
    "collective-permute": 1,
}


class Collective(NamedTuple):
    """One array that devices exchange.

    Attributes:
        kind: such as "all-reduce".
        part: of the step: one of `PARTS`.
        dtype: of the array, as XLA writes it.
        dims: of the whole array: all rows of what is gathered or scattered.
        group: devices that exchange it with one another.
        times: how often, in one step.
        instruction: the name of its instruction, which arrays may share.
        op_name: where in the traced program it comes from.
    """

    kind: str
    part: str
    dtype: str
    dims: tuple[int, ...]
    group: int
    times: int
    instruction: str
    op_name: str

    @property
    def rounds(self) -> int:
        """How often it goes around all devices."""
        return _ROUNDS[self.kind]

    @property
    def payload_bytes(self) -> int:
        """The whole array's size, as often as it is exchanged."""
        return Leaf(self.dtype, self.dims).num_bytes * self.times

    @property
    def sent_bytes(self) -> float:
        """What each device sends for it, as a ring does it."""
        if self.kind == "collective-permute":
            return self.payload_bytes
        share = (self.group - 1) / self.group
        return self.rounds * share * self.payload_bytes


def find(program: Program) -> list[Collective]:
    """The program's collectives, those of one device left out."""
    times = executions(program)
    found: list[Collective] = []
    chains: set[tuple[str, ...]] = set()
    for name, computation in program.computations.items():
        for instruction in computation.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind not in _ROUNDS or not times[name]:
                continue
            chain = _chain(instruction)
            if chain in chains:
                continue
            chains |= {chain} if chain else set()
            scattered = kind == "all-reduce" and "all-reduce-scatter" in name
            found += _exchanged(
                program,
                computation,
                instruction,
                "reduce-scatter" if scattered else kind,
                times[name],
            )
    return [one for one in found if one.group > 1]


def _chain(instruction: Instruction) -> tuple[str, ...]:
    """What the pieces of one collective have in common that XLA spread over fusions."""
    chain = re.search(r'chain_id="(\d+)"', instruction.attributes)
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    return (chain[1], channel[1]) if chain and channel else ()


def _exchanged(
    program: Program,
    computation: Computation,
    instruction: Instruction,
    kind: str,
    times: int,
) -> Iterator[Collective]:
    group = group_size(instruction.attributes, program.num_partitions)
    fused = kind != instruction.opcode.removesuffix("-start")
    op_names = _op_names(program, computation, instruction)
    for leaf, op_name in zip(_results(instruction), op_names, strict=True):
        dims = leaf.dims
        if kind == "reduce-scatter" and not fused:
            axis = re.search(r"dimensions=\{(\d+)\}", instruction.attributes)
            along = int(axis[1]) if axis else 0
            dims = (*dims[:along], dims[along] * group, *dims[along + 1 :])
        yield Collective(
            kind,
            part_of(op_name),
            leaf.dtype,
            dims,
            group,
            times,
            instruction.name,
            op_name,
        )


def _results(instruction: Instruction) -> tuple[Leaf, ...]:
    """The arrays exchanged: what a collective begun here will give at its end."""
    leaves = instruction.leaves
    if instruction.opcode == "all-gather-start":
        return leaves[len(leaves) // 2 :]  # (what went in, what comes out)
    return leaves[1:2] if instruction.opcode == "collective-permute-start" else leaves


def _op_names(
    program: Program, computation: Computation, instruction: Instruction
) -> list[str]:
    """Where each array comes from: joined ones keep it where they are taken apart."""
    results = _results(instruction)
    if len(results) == 1:
        return [origin(program, computation, instruction.name)]
    names: dict[int, str] = {}
    for user in computation.values():
        if user.opcode == "get-tuple-element" and instruction.name in user.operands:
            taken = re.search(r"index=(\d+)", user.attributes)
            if taken and user.op_name:
                names[int(taken[1])] = user.op_name
    operands = instruction.operands
    return [
        names.get(i)
        or (origin(program, computation, operands[i]) if i < len(operands) else "")
        or instruction.op_name
        for i in range(len(results))
    ]


def group_size(attributes: str, devices: int) -> int:
    """How many devices a collective is among.

    Args:
        attributes: of its instruction.
        devices: that run the program.
    """
    groups = attributes.partition("replica_groups=")[2]
    if listed := re.match(r"\{\{([\d,]*)\}", groups):
        return len(listed[1].split(","))
    if iota := re.match(r"\[\d+,(\d+)\]<=", groups):
        return int(iota[1])
    if mesh := re.match(r"mesh\[([^\]]*)\] \{([^}]*)\}", groups):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']*)'", mesh[2]))
    return devices


def unknown_loops(program: Program) -> list[str]:
    """Loops whose number of turns the text does not tell: they count as one turn."""
    return [
        instruction.name
        for computation in program.computations.values()
        for instruction in computation.values()
        if instruction.opcode == "while" and trip_count(program, instruction) is None
    ]


def sent_by_part(collectives: Iterable[Collective]) -> Mapping[str, float]:
    """Bytes that each device sends in a step, for each part of it."""
    sent = dict.fromkeys(PARTS, 0.0)
    for one in collectives:
        sent[one.part] += one.sent_bytes
    return sent
