"""experiments.pretrain that says on stdout what it does next, for benchmarks.faults."""

import functools
import os

from caco_jax.runs.preemption import Stop

if __name__ == "__main__":
    STOP = Stop()
    STOP.listen(os._exit)

from collections.abc import Callable
from typing import Any

from caco_jax.programs import command, pretrain
from caco_jax.runs import fit
from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.monitor import Monitor
from caco_jax.runs.pretraining import Pretraining


def _announced(phase: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    def announced(*args: Any, **options: Any) -> Any:
        print(phase, flush=True)
        return inner(*args, **options)

    return announced


def announce() -> None:
    """From now on each phase is said as it begins: a line "step", "save" and so on."""
    make = Pretraining.dispatch

    def make_announced(*args: Any, **options: Any) -> Any:
        return _announced("step", make(*args, **options))

    Pretraining.dispatch = make_announced  # type: ignore[method-assign]
    fit.start_up = _announced("start-up", fit.start_up)
    for owner, name, phase in (
        (Checkpoints, "save", "save"),
        (Monitor, "row", "evaluation"),
    ):
        setattr(owner, name, _announced(phase, getattr(owner, name)))


if __name__ == "__main__":
    announce()
    command.run(functools.partial(pretrain.main, STOP))
