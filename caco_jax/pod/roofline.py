"""A roofline model: the least time of a step, from the peak figures of the chips.

A bound, not a measurement: every unit at its peak, arithmetic and memory traffic
entirely at the same time, and the interconnect after both.
"""

from collections.abc import Iterable
from typing import NamedTuple

from caco_jax.pod.collectives import Collective
from caco_jax.pod.topology import Chip
from caco_jax.pod.work import Work

# A message from a chip to its neighbour, however short. An assumption: the figure that
# "How to Scale Your Model" (jax-ml.github.io/scaling-book) calculates with.
HOP_SECONDS = 1e-6

ASSUMPTIONS = (
    "peaks of the maker's data sheets: bfloat16 FLOP/s, HBM bytes/s, interconnect "
    "bytes/s of all links out of a chip",
    "a product at float32's default precision takes one bfloat16 pass of the matrix "
    "unit, at HIGH three, at HIGHEST six",
    "an axis of the slice closes to a ring, and so has twice the bandwidth, at 16 "
    "chips on v5e and v6e and at multiples of 4 on v4 and v5p",
    "collectives send what a ring sends, over all axes at once",
    f"each hop takes {HOP_SECONDS * 1e6:g} microsecond",
    "arithmetic and HBM traffic overlap entirely, the interconnect not at all",
)


class Roofline(NamedTuple):
    """Seconds of one step.

    Attributes:
        arithmetic: of the matrix units.
        hbm: of main memory.
        interconnect: of what is sent, by its size.
        latency: of what is sent, by how often and how far.
    """

    arithmetic: float
    hbm: float
    interconnect: float
    latency: float

    @property
    def step(self) -> float:
        """All terms, those that can overlap counted once."""
        return max(self.arithmetic, self.hbm) + self.interconnect + self.latency

    @property
    def limit(self) -> str:
        """The name of the largest term."""
        return max(self._fields, key=lambda name: getattr(self, name))


def predict(
    work: Work, collectives: Iterable[Collective], chip: Chip, shape: tuple[int, ...]
) -> Roofline:
    """The terms of a step's time.

    Args:
        work: of one chip in one step.
        collectives: of one step.
        chip: its peaks.
        shape: chips along each axis of the slice.
    """
    collectives = list(collectives)
    sent = sum(one.sent_bytes for one in collectives)
    bandwidth = slice_bandwidth(chip, shape)
    # Arrays that share an instruction travel together.
    messages = {one.instruction: one for one in collectives}.values()
    hops = sum(one.times * one.rounds for one in messages) * span(chip, shape)
    return Roofline(
        arithmetic=work.pass_flops / chip.peak_flops,
        hbm=work.hbm_bytes / chip.hbm_bandwidth,
        interconnect=sent / bandwidth if sent else 0.0,
        latency=hops * HOP_SECONDS,
    )


def slice_bandwidth(chip: Chip, shape: tuple[int, ...]) -> float:
    """Bytes a second that a chip can send into the slice, over all its axes."""
    links = sum(2 if _is_ring(chip, side) else 1 for side in shape if side > 1)
    return links * chip.link_bandwidth


def span(chip: Chip, shape: tuple[int, ...]) -> int:
    """Hops between the chips of a slice that are furthest apart."""
    return sum(side // 2 if _is_ring(chip, side) else side - 1 for side in shape)


def _is_ring(chip: Chip, side: int) -> bool:
    return side % chip.wraps_at == 0
