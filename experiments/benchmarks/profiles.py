"""Profile of a compiled step: time of its operations, by part."""

import collections
import pathlib
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax

STEPS = 3
# The first pattern that matches the source name of an operation decides.
PARTS = (
    ("augmentation", r"/views/"),
    ("optimisers", r"/optimizer/"),
    ("BatchNorm", r"batchnorm"),
    ("convolutions", r"conv_general_dilated"),
    ("rest of the encoder", r"backbone|projector"),
    ("bank game and loss", r"payoff"),
)
MOVING_AVERAGE = "moving average and the rest"
UNNAMED = "copies and what has no name"
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"')


def part(op_name: str) -> str:
    """The part of a step that an operation belongs to, by its source's name."""
    if not op_name:
        return UNNAMED
    for name, pattern in PARTS:
        if re.search(pattern, op_name):
            return name
    return MOVING_AVERAGE


def op_names(program: str) -> dict[str, str]:
    """Instruction of a compiled program -> name in the source."""
    found = (_INSTRUCTION.match(line) for line in program.splitlines())
    return {match[1]: match[2] for match in found if match}


def seconds_by_part(
    program: str,
    folder: str,
    step: Callable[[], object],
    wait: Callable[[], object],
) -> dict[str, float]:
    """Profiles a few steps into a folder, and returns the seconds of one step by part.

    On a CPU the seconds are summed over all threads.

    Args:
        program: the compiled step as text.
        folder: for the profile; `tensorboard --logdir` shows it, too.
        step: starts a step.
        wait: returns when all are done.
    """
    with jax.profiler.trace(folder):
        for _ in range(STEPS):
            step()
        wait()
    names = op_names(program)
    seconds: dict[str, float] = collections.defaultdict(float)
    for instruction, nanoseconds in _events(folder):
        seconds[part(names.get(instruction, ""))] += nanoseconds / 1e9 / STEPS
    largest_first = sorted(seconds.items(), key=lambda entry: -entry[1])
    return dict(largest_first)


def _events(folder: str) -> Iterable[tuple[str, float]]:
    """Each event of a compiled operation: (instruction, nanoseconds)."""
    newest = max(
        pathlib.Path(folder).rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # jaxlib's own
        data: Any = jax.profiler.ProfileData.from_file(str(newest))
        planes = list(data.planes)
        # Times on the accelerator, if there is one, not of kernel launches on the host.
        own = [plane for plane in planes if plane.name.startswith("/device:")]
        for plane in own or planes:
            for line in plane.lines:
                for event in line.events:
                    stats = dict(event.stats)
                    if "hlo_op" in stats:
                        yield str(stats["hlo_op"]), event.duration_ns
