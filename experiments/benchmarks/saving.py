"""Cost of saving checkpoints of ImageNet's size: ResNet-50, 224 pixels, the bank.

python -m experiments.benchmarks.saving --out=runs/bench/saving.json

Rounds of steps with a save at their start alternate with rounds without. On a CPU
saving competes with the steps for cores; beside an accelerator it only needs the copy
to the host.
"""

import argparse
import contextlib
import functools
import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from caco_jax.config.build import build_run
from caco_jax.config.recipe import load_recipe, override
from caco_jax.config.sections import experiment_config
from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.workdir import Workdir
from caco_jax.training.feeds import Feed
from caco_jax.training.loop import DispatchFn
from caco_jax.training.state import TrainState
from experiments.benchmarks.timing import machine, write_json

RECIPE = "configs/caco_imagenet.py"
_EPOCH_STEPS = 1_281_167 // 256
_MOST_SHARE = 0.03


def measure(
    recipe: str = RECIPE, *, batch: int = 4, steps: int = 4, rounds: int = 3
) -> dict[str, Any]:
    """Seconds of steps with and without saving.

    Args:
        recipe: the recipe.
        batch: images in one step; the state does not depend on it.
        steps: steps in a round.
        rounds: rounds of each kind.
    """
    seconds: dict[str, list[float]] = {"plain": [], "saving": []}
    blocking = []
    with _training(recipe, batch) as run, tempfile.TemporaryDirectory() as folder:
        run.train(2)  # compiles
        alone = _save_alone(run, folder)
        for number in range(rounds):
            seconds["plain"].append(_timed(functools.partial(run.train, steps)))
            with _checkpoints(folder, number) as checkpoints:
                blocking.append(_timed(functools.partial(checkpoints.save, run.state)))
                seconds["saving"].append(
                    blocking[-1] + _timed(functools.partial(run.train, steps))
                )
    pairs = zip(seconds["plain"], seconds["saving"], strict=True)
    lost = statistics.median(saving - plain for plain, saving in pairs)
    step = statistics.median(seconds["plain"]) / steps
    return {
        "recipe": recipe,
        "batch": batch,
        **alone,
        "blocking_seconds": statistics.median(blocking),
        "seconds": seconds,
        "step_seconds": step,
        "lost_seconds_a_save": lost,
        "share_where_each_epoch_is_saved": lost / (step * _EPOCH_STEPS),
        "seconds_between_saves_at_3_percent": max(lost, 0) / _MOST_SHARE,
        "steps_between_saves_at_3_percent": max(lost, 0) / (_MOST_SHARE * step),
    }


class _Run:
    """A state that is trained step by step."""

    def __init__(self, dispatch: DispatchFn, state: TrainState, feed: Feed) -> None:
        self._dispatch, self.state, self._fixed = dispatch, state, feed.fixed
        self._inputs = (each for _, inputs in feed.epochs for each in inputs)

    def train(self, steps: int) -> None:
        """Runs some steps and waits for them."""
        for chosen in itertools.islice(self._inputs, steps):
            self.state, metrics = self._dispatch(self.state, self._fixed, chosen)
        jax.block_until_ready(metrics)


@contextlib.contextmanager
def _training(recipe: str, batch: int) -> Iterator[_Run]:
    """A run of a recipe on generated images, with one step in each dispatch."""
    changes = [
        f"data.source=fake:224x224x3x{4 * batch}",
        f"training.batch_size={batch}",
        "training.steps_per_dispatch=1",
    ]
    config = experiment_config(override(load_recipe(recipe), changes))
    run = build_run(config)
    with (
        jax.set_mesh(run.mesh),
        run.feeds()(run.keys.order, steps=4, epochs=10_000) as feed,
    ):
        state = run.place(run.initial_state())
        dispatch = run.dispatch(run.training_step(), state, feed.layout)
        yield _Run(dispatch, state, feed)


def _checkpoints(folder: str, number: int) -> Checkpoints:
    return Checkpoints(Workdir(f"{folder}/{number}"), keep=1)


def _save_alone(run: _Run, folder: str) -> dict[str, float]:
    """Time of a save while nothing else runs."""
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(run.state)]
    before = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.perf_counter()
    with _checkpoints(folder, -1) as checkpoints:
        checkpoints.save(run.state)
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "state_bytes": sum(sizes),
        "save_seconds": time.perf_counter() - begun,
        "save_processor_seconds": spent,
    }


def _timed(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def main() -> None:
    """Parses flags, measures, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4, help="Images in one step.")
    parser.add_argument("--steps", type=int, default=4, help="Steps in a round.")
    parser.add_argument(
        "--rounds", type=int, default=3, help="Rounds with and without a save."
    )
    parser.add_argument("--out", help="JSON file to write the results to.")
    flags = parser.parse_args()
    figures = measure(batch=flags.batch, steps=flags.steps, rounds=flags.rounds)
    figures["machine"] = machine()
    for name, value in figures.items():
        if isinstance(value, float):
            print(f"{name}: {value:.3g}")
    if flags.out:
        write_json(flags.out, figures)


if __name__ == "__main__":
    main()
