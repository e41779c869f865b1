"""The training loop: epochs of jitted dispatches, for every method and phase."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from caco_jax._process import give_back_freed_memory
from caco_jax.data.records import StreamError
from caco_jax.methods.method import Network
from caco_jax.training.feeds import Feed, Layout
from caco_jax.training.finite_check import check_finite, check_step
from caco_jax.training.sharding import on_cpu, replicated, state_shardings
from caco_jax.training.state import TrainState
from caco_jax.training.step import StepFn

# (state, fixed arrays, arrays of this dispatch) -> (state, metrics of each step)
DispatchFn = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Array]]]


def make_dispatch(
    train_step: StepFn,
    state: TrainState,
    layout: Layout,
    mesh: Mesh,
    *,
    row_sharded: Collection[str] = (),
    shard_encoder: bool = False,
    skip_nonfinite: bool = False,
) -> DispatchFn:
    """Several steps as one jitted call: (state, fixed, chosen [S, ...]).

    Training, the dry run and the compiler for TPU slices all lower this one program.
    The state is donated. Metrics are stacked, [S] each.

    Args:
        train_step: one step.
        state: any state of the run, or its shapes, for its shardings.
        layout: layout of the feed.
        mesh: the devices.
        row_sharded: see `state_shardings`.
        shard_encoder: see `state_shardings`.
        skip_nonfinite: whether a step that is not finite is undone.
    """
    guarded_step = check_step(train_step, skip=skip_nonfinite)
    shardings = state_shardings(
        state, mesh, row_sharded=row_sharded, shard_encoder=shard_encoder
    )

    @functools.partial(
        jax.jit,
        donate_argnums=0,
        in_shardings=(shardings, layout.fixed, layout.chosen),
        out_shardings=(shardings, replicated(mesh)),
    )
    def dispatch(
        state: TrainState, fixed: Any, chosen: Any
    ) -> tuple[TrainState, dict[str, Array]]:
        def step(state: TrainState, of_step: Any) -> tuple[TrainState, Any]:
            return guarded_step(state, layout.batch(fixed, of_step))

        if not on_cpu(mesh):
            return jax.lax.scan(step, state, chosen)
        rows_metrics = []
        for index in range(len(jax.tree.leaves(chosen)[0])):
            of_step = jax.tree.map(lambda leaf, index=index: leaf[index], chosen)
            state, metrics = step(state, of_step)
            rows_metrics.append(metrics)
        return state, jax.tree.map(lambda *values: jnp.stack(values), *rows_metrics)

    return dispatch


def memory_bytes(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Memory in bytes on each device while the step runs; donated arrays count once."""
    stats: Any = compiled.memory_analysis()
    uses = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    return {**uses, "total": sum(uses.values())}


class Throughput:
    """Time and images of training steps, without compilation, evaluation and saving.

    Attributes:
        seconds: time of the steps.
        images: number of source images.
        skipped: steps that were undone because they were not finite.
    """

    def __init__(self) -> None:
        self.seconds, self.images, self.skipped = 0.0, 0, 0

    def images_per_second(self) -> float:
        """Source images per second; 0 before the first step."""
        return self.images / self.seconds if self.seconds else 0.0

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Adds the time inside the block."""
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun

    def sparing_the_first(self, dispatch: DispatchFn) -> DispatchFn:
        """Wraps a function so that its first call, which compiles, is not timed.

        The memory that the compiler needed is then returned to the system.
        """
        calls = itertools.count()

        def call(state: TrainState, *inputs: Any) -> tuple[TrainState, Any]:
            begun = time.perf_counter()
            results = dispatch(state, *inputs)
            if next(calls) == 0:
                give_back_freed_memory()
                self.seconds -= time.perf_counter() - begun
            return results

        return call


Metrics = dict[str, np.ndarray]
EpochsDone = Iterator[tuple[int, TrainState, Metrics]]
# (name of a step, number of steps done, metrics of the newest steps)
WatchFn = Callable[[str, int, Metrics], None]


def _nobody(*_: Any) -> None:
    """Does nothing."""


def run_phase(
    dispatch: DispatchFn,
    state: TrainState,
    feed: Feed,
    throughput: Throughput,
    *,
    batch_size: int,
    most_skipped: int = 0,
    phase: str = "step",
    stop: Callable[[], bool] = lambda: False,
    watch: WatchFn = _nobody,
) -> EpochsDone:
    """Trains on all examples of a feed.

    Args:
        dispatch: compiled steps of the phase, see `make_dispatch`.
        state: on the devices; donated.
        feed: the phase's examples.
        throughput: measures the time and counts the images.
        batch_size: examples a step.
        most_skipped: largest number of steps that may be undone because of NaN or
            infinity.
        phase: name of a step in messages.
        stop: called after every dispatch; True ends the epoch there.
        watch: called after every dispatch.

    Yields:
        (number of the epoch, from 1; state, metrics of each step just done).

    Raises:
        NonFiniteError: a metric or a player is NaN or infinite.
        StreamError: no more examples can be read. The steps done before are yielded
            first, unless other processes wait for this one.
    """
    dispatch = throughput.sparing_the_first(dispatch)
    for epoch, inputs in feed.epochs:
        parts: list[Metrics] = []
        gone: list[StreamError] = []
        step = int(state.step)
        with throughput.counting():
            results = _dispatched(dispatch, state, feed.fixed, inputs, stop, gone)
            for state, metrics in results:  # noqa: B007 - the last is yielded
                parts.append(_judge(step, metrics, throughput, most_skipped, phase))
                step += len(metrics["loss"])
                watch(phase, step, metrics)
        joined = jax.tree.map(lambda *values: np.concatenate(values), *parts)
        throughput.images += batch_size * len(joined["loss"])
        yield epoch + 1, state, joined
        for error in gone:
            raise error


def _dispatched(
    dispatch: DispatchFn,
    state: TrainState,
    fixed: Any,
    inputs: Iterator[Any],
    stop: Callable[[], bool],
    gone: list[StreamError],
) -> Iterator[tuple[TrainState, Any]]:
    """The newest state, and the metrics of the dispatch before it.

    If examples can no longer be read, `gone` raises after the finished steps.

    One dispatch is queued behind the running one: the devices are never idle, and the
    batches of a stream do not accumulate on them.
    """
    waiting = None
    inputs = iter(inputs)
    while True:
        try:
            chosen = next(inputs)
        except StopIteration:
            break
        except StreamError as error:
            if waiting is None or jax.process_count() > 1:
                raise
            gone.append(error)
            break
        state, metrics = dispatch(state, fixed, chosen)
        if waiting is not None:
            yield state, jax.device_get(waiting)
        waiting = metrics
        if stop():
            break
    yield state, jax.device_get(waiting)


def _judge(
    step: int, metrics: Any, throughput: Throughput, most_skipped: int, phase: str
) -> Metrics:
    """The metrics of a dispatch, if they are finite or the steps were undone."""
    finite = metrics.pop("finite", None)
    if "skipped" in metrics:
        throughput.skipped += int(metrics["skipped"].sum())
        if throughput.skipped <= most_skipped:
            return metrics
        phase = f"after {most_skipped} skipped, {phase}"
    check_finite(step, metrics, finite, phase=phase)
    return metrics


def hand_over(warmed: TrainState, fresh: TrainState) -> TrainState:
    """The state at the start of training, made of the last state of the start-up phase.

    Args:
        warmed: last state of the start-up phase.
        fresh: the state that training would start from without a start-up phase.
    """
    assert warmed.target is not None
    inner = dict(fresh.opt_state.inner_states)
    inner["encoder"] = restart_schedules(warmed.opt_state.inner_states["encoder"])
    online = jax.tree.map(jnp.copy, warmed.players["encoder"])
    return fresh._replace(
        players=warmed.players,
        stats=warmed.stats,
        target=Network(online, warmed.target.stats),
        opt_state=fresh.opt_state._replace(inner_states=inner),
    )


def restart_schedules(opt_state: optax.OptState) -> optax.OptState:
    """Resets the step counts in an optimiser state; momentum is kept."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            jnp.zeros_like(leaf) if getattr(path[-1], "name", "") == "count" else leaf
        ),
        opt_state,
    )
