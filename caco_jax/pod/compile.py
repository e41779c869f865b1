"""Ahead-of-time compilation of a run's training step for TPUs, without a TPU."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from caco_jax.config.build import build_run
from caco_jax.config.sections import DataConfig, ExperimentConfig
from caco_jax.data.dataset import ArrayDataset, Dataset, RecordDataset
from caco_jax.pod.topology import Slice
from caco_jax.training.loop import memory_bytes
from caco_jax.training.sharding import make_mesh

# Prepared sets that are kept on the devices: (training images, height and width). All
# others are streamed, as if they were ImageNet's training images.
_RESIDENT = {"tfds:cifar10": (50_000, 32), "tfds:cifar100": (50_000, 32)}
_STREAMED_COUNT = 1_281_167
_EMBEDDED = ("digits", "fake", "idx")  # or read at once
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


class Compiled(NamedTuple):
    """What the compiler made of a train step.

    Attributes:
        text: the optimised program; None where it does not fit into memory.
        memory: bytes on each chip, by use; where it does not fit, what the compiler
            says it would need.
        cost: XLA's own analysis of the work; it counts the body of a loop once.
        seconds: that tracing and compiling took.
    """

    text: str | None
    memory: Mapping[str, int]
    cost: Mapping[str, float]
    seconds: float


def compile_step(
    config: ExperimentConfig, where: Slice, *, quick: bool = False
) -> Compiled:
    """Compiles one train step for a slice: no data set and no TPU are needed.

    Args:
        config: the run's configuration.
        where: the slice.
        quick: let the compiler optimise for speed less than it does for a run.

    Raises:
        ConfigError: the configuration does not fit the slice, or itself.
    """
    run = build_run(config, mesh=make_mesh(where.devices), data=stand_in(config.data))
    return compile_lowered(run.lower_step, where, quick=quick)


def compile_lowered(
    lower: Callable[[], jax.stages.Lowered], where: Slice, *, quick: bool = False
) -> Compiled:
    """Compiles what was traced for a slice.

    Args:
        lower: traces it.
        where: the slice.
        quick: as of `compile_step`.
    """
    begun = time.perf_counter()
    try:
        with _compiler_settings(where, quick=quick):
            compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = _needed(str(error))
        return Compiled(None, {"total": needed}, {}, time.perf_counter() - begun)
    seconds = time.perf_counter() - begun
    cost = compiled.cost_analysis() or {}
    return Compiled(compiled.as_text(), memory_bytes(compiled), cost, seconds)


@contextlib.contextmanager
def _compiler_settings(where: Slice, *, quick: bool) -> Iterator[None]:
    """Sets what the compiler is told, and takes it back."""
    settings: dict[str, Any] = {}
    if quick:
        settings["jax_exec_time_optimization_effort"] = -1.0  # the least
    if where.devices[0] not in jax.devices():
        # What is compiled without a device cannot be read back from the cache.
        settings["jax_enable_compilation_cache"] = False
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def stand_in(config: DataConfig) -> Dataset | None:
    """The shape of a data set in its place; None for those that need no files."""
    kind, _, _ = config.source.partition(":")
    if kind in _EMBEDDED:
        return None
    # CIFAR's own files hold what TFDS prepares of them.
    resident = _RESIDENT.get(config.source, _RESIDENT.get(f"tfds:{kind}"))
    if resident is None:
        records: Any = range(_STREAMED_COUNT)
        return RecordDataset(config.source, records)
    count, size = resident
    images: Any = jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8)
    return ArrayDataset(config.source, images, None, images, None)


def _needed(message: str) -> int:
    """Bytes that a program which does not fit would need; 0 if it is not said.

    libtpu says it in one of two ways, for temporaries alone or for all there is.
    """
    said = re.search(r"(?:temporaries \(|Used )([\d.]+)([KMG]?)", message)
    return round(float(said[1]) * _UNITS[said[2]]) if said else 0
