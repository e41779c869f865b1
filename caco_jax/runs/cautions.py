"""What is allowed and yet seldom meant: settings that others have left behind.

A run is checked before it begins. What cannot be is an error of `checks`; what follows
from changing one number and not those that go with it is said here, and the run begins.
"""

import math
from collections.abc import Callable, Iterator

import jax
import numpy as np

from caco_jax.optim.settings import OptimizerConfig, optimizer_key
from caco_jax.runs.pretraining import Pretraining

# Where each begins; recipes as they are shipped stay below.
MEETINGS = 0.5  # of the queries, with a key of their own image in the queue
WARMUP_SHARE = 0.25  # of the run's epochs


def cautions(run: Pretraining) -> list[str]:
    """One line for each setting that seems left behind, as `checks` would put it.

    Args:
        run: the run; nothing is compiled or read.
    """
    return [line for rule in RULES for line in rule(run)]


def own_key_share(*, queue_steps: int, epoch_steps: int) -> float:
    """Share of queries that meet a key of their own image from the epoch before.

    An image comes once an epoch, at any of its steps alike. Its last key is then as
    many steps old as an epoch has, give or take the two places, and the queue still has
    it if that is no more than the steps whose keys it holds. Older keys of the image,
    which longer queues hold too, are not counted again.

    Args:
        queue_steps: for how many steps a key stays, at least 0.
        epoch_steps: steps in an epoch, at least 1.
    """
    # Of S x S pairs of places, those that lie d steps apart in one direction: S - |d|.
    apart = np.arange(1 - epoch_steps, epoch_steps)
    pairs = epoch_steps - np.abs(apart)
    return float(pairs[epoch_steps + apart <= queue_steps].sum() / epoch_steps**2)


def _rows(run: Pretraining) -> tuple[str, int] | None:
    """The setting that says how many rows queries are scored against, and its value."""
    name = run.method.memory
    if name is None or name not in run.method.row_sharded:
        return None
    for tree in jax.eval_shape(run.method.init, run.keys.players):
        if name in tree:
            return f"method.{run.method.row_sharded[name]}", tree[name].shape[0]
    return None


def _bank_beside_the_set(run: Pretraining) -> Iterator[str]:
    """A bank of more entries than there are examples to fill or to move it."""
    rows, count = _rows(run), run.data.train_count
    if rows is None or run.method.memory not in run.method.moves or rows[1] <= count:
        return
    yield (
        f"{rows[0]}: expected at most {count:,}, the training examples of "
        f"{run.data.name}, got {rows[1]:,}; most entries will have nobody to follow: "
        "take a twentieth of the examples or so"
    )


def _queue_beside_the_set(run: Pretraining) -> Iterator[str]:
    """A queue in which most queries find their own image's key, as a negative."""
    rows = _rows(run)
    if rows is None or run.method.memory in run.method.moves:
        return
    keys_a_step = run.training.batch_size
    if getattr(run.method.settings, "symmetric", False):
        keys_a_step *= 2
    share = own_key_share(
        queue_steps=rows[1] // keys_a_step, epoch_steps=run.steps_per_epoch
    )
    if share > MEETINGS:
        yield (
            f"{rows[0]}: expected a queue shorter than the {run.data.train_count:,} "
            f"training examples of {run.data.name}, got {rows[1]:,}; about {share:.0%} "
            "of the queries will meet an older key of their own image as a negative: "
            "take a twentieth of the examples or so"
        )


def _schedules_beside_the_run(run: Pretraining) -> Iterator[str]:
    """Warm-ups that are much of the run, milestones that it does not reach."""
    epochs = run.training.epochs
    for player, part in run.optimizers.items():
        if not isinstance(part, OptimizerConfig):
            continue
        section = optimizer_key(player)
        if part.warmup_epochs > WARMUP_SHARE * epochs:
            yield (
                f"{section}.warmup_epochs: expected at most a quarter of the run's "
                f"{epochs:,} epochs, got {part.warmup_epochs:,}; shorten it along with "
                "training.epochs"
            )
        missed = [str(epoch) for epoch in part.milestones if epoch >= epochs]
        if missed:
            yield (
                f"{section}.milestones: expected epochs below the run's {epochs:,}, "
                f"got {', '.join(missed)}, which it never reaches; move them along "
                "with training.epochs"
            )


def _target_beside_the_run(run: Pretraining) -> Iterator[str]:
    """A target encoder that stays near its first weights to the end."""
    momentum, steps = run.target.momentum, run.total_steps
    memory = math.inf if momentum == 1 else 1 / (1 - momentum)
    if run.method.uses_target and memory > steps:
        got = "which never forgets" if momentum == 1 else f"{memory:,.0f} steps"
        yield (
            f"target.momentum: expected a memory 1/(1 - m) of at most the run's "
            f"{steps:,} steps, got m = {momentum:g}, {got}; the target encoder will "
            "stay near where it begins: lower it, or train for longer"
        )


def _start_up_beside_the_run(run: Pretraining) -> Iterator[str]:
    """A phase before training that is longer than training."""
    phase, epochs = run.method.start_up, run.training.epochs
    if phase is not None and phase.epochs > epochs:
        yield (
            f"method.start_up_epochs: expected at most the run's {epochs:,} epochs, "
            f"got {phase.epochs:,}; shorten it along with training.epochs"
        )


RULES: tuple[Callable[[Pretraining], Iterator[str]], ...] = (
    _bank_beside_the_set,
    _queue_beside_the_set,
    _schedules_beside_the_run,
    _target_beside_the_run,
    _start_up_beside_the_run,
)
