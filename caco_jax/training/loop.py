"""The one loop: start-up, then epochs of jitted dispatches, for every method."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from caco_jax.config import TrainingConfig
from caco_jax.methods.method import Network, StartUp
from caco_jax.training import assemble
from caco_jax.training.alarms import check_finite
from caco_jax.training.assemble import Experiment
from caco_jax.training.feeds import Feed, Layout, OpenFeed
from caco_jax.training.guard import guard
from caco_jax.training.mesh import on_cpu, replicated, state_shardings
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
    shard_encoder: bool = False,
) -> DispatchFn:
    """Several steps as one compiled call: (state, fixed, chosen [S, ...]).

    The state is donated. Metrics come back stacked, [S] each.

    Args:
        train_step: one step.
        state: any state of the run, for its shardings.
        layout: of the feed.
        mesh: the devices.
        shard_encoder: as of `state_shardings`.
    """
    shardings = state_shardings(state, mesh, shard_encoder=shard_encoder)

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
            return train_step(state, layout.batch(fixed, of_step))

        if not on_cpu(mesh):
            return jax.lax.scan(step, state, chosen)
        rows_metrics = []
        for index in range(len(jax.tree.leaves(chosen)[0])):
            of_step = jax.tree.map(lambda leaf, index=index: leaf[index], chosen)
            state, metrics = step(state, of_step)
            rows_metrics.append(metrics)
        return state, jax.tree.map(lambda *values: jnp.stack(values), *rows_metrics)

    return dispatch


class Progress:
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
        """The function, of which the first call does not count: it compiles."""
        calls = itertools.count()

        def call(state: TrainState, *inputs: Any) -> tuple[TrainState, Any]:
            begun = time.perf_counter()
            results = dispatch(state, *inputs)
            if next(calls) == 0:
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
    experiment: Experiment,
    train_step: StepFn,
    state: TrainState,
    feed: Feed,
    progress: Progress,
    *,
    phase: str = "step",
    stop: Callable[[], bool] = lambda: False,
    watch: WatchFn = _nobody,
) -> EpochsDone:
    """Trains on all that a feed has.

    Args:
        experiment: the run.
        train_step: the phase's step.
        state: on the devices; donated.
        feed: the phase's images.
        progress: what is counted here.
        phase: what messages call a step.
        stop: asked after every dispatch whether the epoch shall end with it.
        watch: called after every dispatch.

    Yields:
        (number of the epoch, from 1; state, metrics of each step just done).

    Raises:
        NonFiniteError: a metric or a player is NaN or infinite.
    """
    config = experiment.config.training
    dispatch = make_dispatch(
        guard(train_step, skip=config.skip_nonfinite > 0),
        state,
        feed.layout,
        experiment.mesh,
        shard_encoder=config.shard_encoder,
    )
    dispatch = progress.sparing_the_first(dispatch)
    for epoch, inputs in feed.epochs:
        parts: list[Metrics] = []
        step = int(state.step)
        with progress.counting():
            results = _dispatched(dispatch, state, feed.fixed, inputs, stop)
            for state, metrics in results:  # noqa: B007 - the last is yielded
                parts.append(_judge(step, metrics, progress, config, phase))
                step += len(metrics["loss"])
                watch(phase, step, metrics)
        joined = jax.tree.map(lambda *values: np.concatenate(values), *parts)
        progress.images += config.batch_size * len(joined["loss"])
        yield epoch + 1, state, joined


def _dispatched(
    dispatch: DispatchFn,
    state: TrainState,
    fixed: Any,
    inputs: Iterator[Any],
    stop: Callable[[], bool],
) -> Iterator[tuple[TrainState, Any]]:
    """The state so far and the next metrics, which are of one dispatch before it.

    One dispatch waits behind the one that runs: the devices are never idle, and a
    stream's batches do not pile up on them.
    """
    waiting = None
    for chosen in inputs:
        state, metrics = dispatch(state, fixed, chosen)
        if waiting is not None:
            yield state, jax.device_get(waiting)
        waiting = metrics
        if stop():
            break
    yield state, jax.device_get(waiting)


def _judge(
    step: int, metrics: Any, progress: Progress, config: TrainingConfig, phase: str
) -> Metrics:
    """A dispatch's metrics, where the run may go on with them."""
    finite = metrics.pop("finite", None)
    if "skipped" in metrics:
        limit = config.skip_nonfinite
        progress.skipped += int(metrics["skipped"].sum())
        if progress.skipped <= limit:
            return metrics
        phase = f"after {limit} skipped, {phase}"
    check_finite(step, metrics, finite, phase=phase)
    return metrics


def start_up(
    experiment: Experiment,
    open_feed: OpenFeed,
    progress: Progress,
    *,
    watch: WatchFn = _nobody,
) -> TrainState:
    """The state that training begins with: after the method's start-up, if it has one.

    At the end the target's parameters become the online encoder's, each keeps its own
    BatchNorm statistics, and the encoder's momentum lives on while its schedule starts
    anew.

    Args:
        experiment: the run.
        open_feed: where its images come from.
        progress: what is counted here.
        watch: called after every dispatch.
    """
    state = assemble.initial_state(experiment)
    phase = experiment.method.start_up
    if phase is not None:
        warmed = _warm(experiment, phase, state, open_feed, progress, watch)
        state = hand_over(warmed, state)
    return assemble.place_state(experiment, state)


def _warm(
    experiment: Experiment,
    phase: StartUp,
    state: TrainState,
    open_feed: OpenFeed,
    progress: Progress,
    watch: WatchFn,
) -> TrainState:
    """The last state of a start-up that begins with the encoder of a state."""
    optimizer = assemble.start_up_optimizer(experiment, phase.method)
    _, extra = phase.method.init(experiment.keys.players)
    warming = state._replace(extra=extra, opt_state=optimizer.init(state.players))
    # A copy: the dispatch donates what it is given, and the caller needs `state`.
    warming = jax.tree.map(jnp.copy, warming)
    warming = assemble.place_state(experiment, warming)
    steps, epochs = experiment.steps_per_epoch, max(phase.epochs, 1)
    if phase.epochs == 0:
        batch_size = experiment.config.training.batch_size
        steps = min(-(-phase.examples // batch_size), steps)
    key = experiment.keys.start_up_order
    with open_feed(key, steps=steps, epochs=epochs) as feed:
        step = assemble.start_up_step(experiment)
        *_, (_, warming, _) = run_phase(
            experiment,
            step,
            warming,
            feed,
            progress,
            phase="start-up step",
            watch=watch,
        )
    return warming


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


def train_epochs(
    experiment: Experiment,
    state: TrainState,
    open_feed: OpenFeed,
    progress: Progress,
    *,
    stop: Callable[[], bool] = lambda: False,
    watch: WatchFn = _nobody,
) -> EpochsDone:
    """Trains from the state's step, of whichever epoch, to the end of the run.

    Args:
        experiment: the run.
        state: on the device; donated.
        open_feed: where the images come from.
        progress: what is counted here.
        stop: asked after every dispatch whether to yield before the epoch's end.
        watch: called after every dispatch.

    Yields:
        (number of the epoch, from 1; state, metrics of each of the epoch's steps, those
        before the first state's left out).

    Raises:
        NonFiniteError: a metric or a player became NaN or infinite.
    """
    with open_feed(
        experiment.keys.order,
        steps=experiment.steps_per_epoch,
        epochs=experiment.config.training.epochs,
        first_step=int(state.step),
    ) as feed:
        step = assemble.training_step(experiment)
        yield from run_phase(
            experiment, step, state, feed, progress, stop=stop, watch=watch
        )
