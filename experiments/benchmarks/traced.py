"""`caco pretrain` that prints its phases on stdout, for the fault injection."""

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


def _traced(phase: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    def traced(*args: Any, **options: Any) -> Any:
        print(phase, flush=True)
        return inner(*args, **options)

    return traced


def trace() -> None:
    """Prints each phase as it begins: a line "step", "save" and so on."""
    make = Pretraining.dispatch

    def make_traced(*args: Any, **options: Any) -> Any:
        return _traced("step", make(*args, **options))

    Pretraining.dispatch = make_traced  # type: ignore[method-assign]
    fit.start_up = _traced("start-up", fit.start_up)
    for owner, name, phase in (
        (Checkpoints, "save", "save"),
        (Monitor, "row", "evaluation"),
    ):
        setattr(owner, name, _traced(phase, getattr(owner, name)))


if __name__ == "__main__":
    trace()
    command.run(functools.partial(pretrain.main, STOP))
