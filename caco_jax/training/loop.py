"""The one loop: epochs of jitted dispatches, for every method and phase."""

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

# (state, what every dispatch gets, this dispatch's own) -> (state, metrics by step)
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

    The one place where a step becomes a program: what trains, what a dry run measures
    and what is compiled for chips that are not there is lowered from here. The state is
    donated. Metrics come back stacked, [S] each.

    Args:
        train_step: one step.
        state: any state of the run, or its shapes, for its shardings.
        layout: of the feed.
        mesh: the devices.
        row_sharded: as of `state_shardings`.
        shard_encoder: as of `state_shardings`.
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
    """Bytes on each chip while the step runs: what is donated counts once."""
    stats: Any = compiled.memory_analysis()
    uses = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    return {**uses, "total": sum(uses.values())}


class Throughput:
    """Seconds and images of the steps proper: not compiling, evaluation, saving.

    Attributes:
        seconds: of steps.
        images: source images.
        skipped: steps that were undone because they were not finite.
    """

    def __init__(self) -> None:
        self.seconds, self.images, self.skipped = 0.0, 0, 0

    def images_per_second(self) -> float:
        """Source images a second; 0 before the first."""
        return self.images / self.seconds if self.seconds else 0.0

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Counts the time inside."""
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun

    def sparing_the_first(self, dispatch: DispatchFn) -> DispatchFn:
        """The function, of which the first call does not count: it compiles.

        A compiler needs some hundred megabytes, which the system gets back then.
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
# (what a step is called, the number of steps done, the metrics of the last ones)
WatchFn = Callable[[str, int, Metrics], None]


def _nobody(*_: Any) -> None:
    """Watches nothing."""


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
    """Trains on all that a feed has.

    Args:
        dispatch: of the phase's step, see `make_dispatch`.
        state: on the devices; donated.
        feed: the phase's examples.
        throughput: what is counted here.
        batch_size: examples a step.
        most_skipped: steps of the run that may be undone since they are not finite.
        phase: what messages call a step.
        stop: asked after every dispatch whether the epoch shall end with it.
        watch: called after every dispatch.

    Yields:
        (number of the epoch, from 1; state, metrics of each step just done).

    Raises:
        NonFiniteError: a metric or a player is NaN or infinite.
        StreamError: there are no more examples to be had. The steps done before
            are yielded first, unless other processes wait for this one.
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
    """The state so far and the next metrics, which are of one dispatch before it.

    Where the examples went away, `gone` says it after the steps that were done.

    One dispatch waits behind the one that runs: the devices are never idle, and a
    stream's batches do not pile up on them.
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
    """A dispatch's metrics, where the run may go on with them."""
    finite = metrics.pop("finite", None)
    if "skipped" in metrics:
        throughput.skipped += int(metrics["skipped"].sum())
        if throughput.skipped <= most_skipped:
            return metrics
        phase = f"after {most_skipped} skipped, {phase}"
    check_finite(step, metrics, finite, phase=phase)
    return metrics


def hand_over(warmed: TrainState, fresh: TrainState) -> TrainState:
    """What training takes from its start-up.

    Args:
        warmed: the start-up's last state.
        fresh: the state that training would start from without a start-up.
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
    """An optimiser's state with every count of steps at zero, momentum kept."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            jnp.zeros_like(leaf) if getattr(path[-1], "name", "") == "count" else leaf
        ),
        opt_state,
    )
