"""Warnings about settings that are allowed but probably not intended.

Impossible settings are errors of `checks`. This module warns if one number was changed
and those that depend on it were not, and the run starts.
"""

import math
from collections.abc import Callable, Iterator

import jax
import numpy as np

from caco_jax.optim.settings import OptimizerConfig, optimizer_key
from caco_jax.runs.pretraining import Pretraining

# Threshold of each warning; no shipped recipe reaches one.
MEETINGS = 0.5  # share of queries with a key of their own image in the queue
WARMUP_SHARE = 0.25  # share of the run's epochs


def cautions(run: Pretraining) -> list[str]:
    """One line for each setting that probably should have been changed too.

    Args:
        run: the run; nothing is compiled or read.
    """
    return [line for rule in RULES for line in rule(run)]


def own_key_share(*, queue_steps: int, epoch_steps: int) -> float:
    """Share of queries whose image has a key of the epoch before in the queue.

    An image comes once in each epoch, at a step drawn uniformly. The age of its last
    key is then the length of an epoch, plus or minus the difference of the two places.
    The queue still has it if the age is at most the number of steps whose keys it
    holds. Older keys of the image, which longer queues hold too, are not counted again.

    Args:
        queue_steps: number of steps that a key stays in the queue, at least 0.
        epoch_steps: steps in an epoch, at least 1.
    """
    # Of S x S pairs of places, S - |d| are d steps apart in one direction.
    apart = np.arange(1 - epoch_steps, epoch_steps)
    pairs = epoch_steps - np.abs(apart)
    return float(pairs[epoch_steps + apart <= queue_steps].sum() / epoch_steps**2)


def _rows(run: Pretraining) -> tuple[str, int] | None:
    """The setting of the rows that queries are compared with, and its value."""
    name = run.method.memory
    if name is None or name not in run.method.row_sharded:
        return None
    for tree in jax.eval_shape(run.method.init, run.keys.players):
        if name in tree:
            return f"method.{run.method.row_sharded[name]}", tree[name].shape[0]
    return None


def _bank_beside_the_set(run: Pretraining) -> Iterator[str]:
    """Warns of a bank with more entries than there are examples."""
    rows, count = _rows(run), run.data.train_count
    if rows is None or run.method.memory not in run.method.moves or rows[1] <= count:
        return
    yield (
        f"{rows[0]}: expected at most {count:,}, the training examples of "
        f"{run.data.name}, got {rows[1]:,}; most entries will have nobody to follow: "
        "take a twentieth of the examples or so"
    )


def _queue_beside_the_set(run: Pretraining) -> Iterator[str]:
    """Warns of a queue with a key of the same image for most queries."""
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


def _groups_beside_the_devices(run: Pretraining) -> Iterator[str]:
    """Warns of BatchNorm groups that the devices cannot share evenly."""
    size, devices = run.batchnorm_group, run.mesh.size
    if size is None:
        return
    groups = run.training.batch_size // run.training.microbatches // size
    if groups % devices:
        yield (
            f"encoder.batchnorm_group: expected a multiple of the {devices} devices as "
            f"the number of groups, got {groups} of {size} rows; every device will "
            "encode the whole batch: change training.batch_size or the group"
        )


def _schedules_beside_the_run(run: Pretraining) -> Iterator[str]:
    """Warns of a warm-up that is most of the run and of milestones after its end."""
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
    """Warns of a target encoder that stays near its initial weights."""
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
    """Warns of a start-up phase that is longer than training."""
    phase, epochs = run.method.start_up, run.training.epochs
    if phase is not None and phase.epochs > epochs:
        yield (
            f"method.start_up_epochs: expected at most the run's {epochs:,} epochs, "
            f"got {phase.epochs:,}; shorten it along with training.epochs"
        )


RULES: tuple[Callable[[Pretraining], Iterator[str]], ...] = (
    _bank_beside_the_set,
    _queue_beside_the_set,
    _groups_beside_the_devices,
    _schedules_beside_the_run,
    _target_beside_the_run,
    _start_up_beside_the_run,
)
