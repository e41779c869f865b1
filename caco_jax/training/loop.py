"""The one loop: start-up, then epochs of jitted dispatches, for every method."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from caco_jax.methods.method import Network
from caco_jax.training import assemble
from caco_jax.training.alarms import check_finite
from caco_jax.training.assemble import Experiment
from caco_jax.training.mesh import replicated, rows, state_shardings
from caco_jax.training.state import TrainState
from caco_jax.training.step import StepFn

DispatchFn = Callable[
    [TrainState, Array, Int[np.ndarray, "s n"]], tuple[TrainState, dict[str, Array]]
]


def make_dispatch(
    train_step: StepFn, state: TrainState, experiment: Experiment
) -> DispatchFn:
    """Several steps as one compiled call: (state, all images, rows [S, N]).

    The state is donated. Metrics come back stacked, [S] each.

    Args:
        train_step: one step.
        state: any state of the run, for its shardings.
        experiment: the run.
    """
    mesh = experiment.mesh
    shardings = state_shardings(state, mesh)

    def one(images: Array, state: TrainState, chosen: Array) -> tuple[TrainState, Any]:
        batch = jax.lax.with_sharding_constraint(images[chosen], rows(mesh))
        return train_step(state, batch)

    @functools.partial(
        jax.jit,
        donate_argnums=0,
        in_shardings=(shardings, replicated(mesh), rows(mesh, axis=1)),
        out_shardings=(shardings, replicated(mesh)),
    )
    def dispatch(
        state: TrainState, images: Array, indices: Int[Array, "s n"]
    ) -> tuple[TrainState, dict[str, Array]]:
        step = functools.partial(one, images)
        if jax.default_backend() != "cpu":
            return jax.lax.scan(step, state, indices)
        # A CPU runs the gradients of convolutions 20 to 35 times slower inside loops,
        # even of one turn (jax-ml/jax#12868): there every step is compiled by itself.
        rows_metrics = []
        for chosen in indices:
            state, metrics = step(state, chosen)
            rows_metrics.append(metrics)
        return state, jax.tree.map(lambda *values: jnp.stack(values), *rows_metrics)

    return dispatch


def epoch_order(
    key: Array, epoch: int, *, count: int, steps: int, batch_size: int
) -> Int[np.ndarray, "s n"]:
    """The rows of each step of an epoch: a permutation from (key, epoch) alone."""
    order = jax.random.permutation(jax.random.fold_in(key, epoch), count)
    return np.asarray(order[: steps * batch_size]).reshape(steps, batch_size)


def dispatch_size(steps: int, at_most: int | None) -> int:
    """The largest allowed divisor of a number of steps: one compiled shape.

    Args:
        steps: to be run.
        at_most: what is allowed; None is 16, but 1 on a CPU, where loops are unrolled
            and a step outlasts any return to Python.
    """
    if at_most is None:
        at_most = 1 if jax.default_backend() == "cpu" else 16
    fitting = range(1, min(steps, at_most) + 1)
    return max(size for size in fitting if steps % size == 0)


class Progress:
    """Seconds and images of the steps proper, evaluation and saving left out."""

    def __init__(self) -> None:
        self.seconds, self.images = 0.0, 0

    def images_per_second(self) -> float:
        """Source images a second; 0 before the first."""
        return self.images / self.seconds if self.seconds else 0.0

    @contextlib.contextmanager
    def counting(self, images: int) -> Iterator[None]:
        """Counts the time inside, for so many images."""
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun
        self.images += images


class Pass(NamedTuple):
    """How one phase of a run goes through the images.

    Attributes:
        experiment: the run.
        dispatch: the phase's compiled steps.
        images: all training images, on the device.
        key: of the order of every epoch.
        steps: in an epoch.
        progress: what is counted.
    """

    experiment: Experiment
    dispatch: DispatchFn
    images: Array
    key: PRNGKeyArray
    steps: int
    progress: Progress

    def run_epoch(
        self, state: TrainState, epoch: int
    ) -> tuple[TrainState, dict[str, np.ndarray]]:
        """One epoch in equal dispatches; metrics come back by step.

        Raises:
            NonFiniteError: a metric is NaN or infinite.
        """
        config = self.experiment.config.training
        order = epoch_order(
            self.key,
            epoch,
            count=len(self.images),
            steps=self.steps,
            batch_size=config.batch_size,
        )
        size = dispatch_size(self.steps, config.steps_per_dispatch)
        parts = []
        with self.progress.counting(order.size):
            for first in range(0, self.steps, size):
                chosen = order[first : first + size]
                state, metrics = self.dispatch(state, self.images, chosen)
                parts.append(metrics)
            fetched = jax.device_get(parts)
        joined = jax.tree.map(lambda *values: np.concatenate(values), *fetched)
        check_finite(epoch * self.steps, joined)
        return state, joined


def start_up(experiment: Experiment, images: Array, progress: Progress) -> TrainState:
    """The state that training begins with: after the method's start-up, if it has one.

    At the end the target's parameters become the online encoder's, each keeps its own
    BatchNorm statistics, and the encoder's momentum lives on while its schedule starts
    anew.

    Args:
        experiment: the run.
        images: all training images, on the device.
        progress: what is counted here.
    """
    state = assemble.initial_state(experiment)
    phase = experiment.method.start_up
    if phase is None:
        return jax.device_put(state, state_shardings(state, experiment.mesh))
    optimizer = assemble.start_up_optimizer(experiment, phase.method)
    _, extra = phase.method.init(experiment.keys.players)
    # A copy: the dispatch donates what it is given, and `state` is used again below.
    warming = jax.tree.map(
        jnp.copy,
        state._replace(extra=extra, opt_state=optimizer.init(state.players)),
    )
    steps = experiment.steps_per_epoch
    if phase.epochs == 0:
        batch_size = experiment.config.training.batch_size
        steps = min(-(-phase.examples // batch_size), steps)
    warming = jax.device_put(warming, state_shardings(warming, experiment.mesh))
    phase_pass = Pass(
        experiment,
        make_dispatch(assemble.start_up_step(experiment), warming, experiment),
        images,
        experiment.keys.start_up_order,
        steps,
        progress,
    )
    for epoch in range(max(phase.epochs, 1)):
        warming, _ = phase_pass.run_epoch(warming, epoch)
    state = hand_over(warming, state)
    return jax.device_put(state, state_shardings(state, experiment.mesh))


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
    experiment: Experiment, state: TrainState, images: Array, progress: Progress
) -> Iterator[tuple[int, TrainState, dict[str, np.ndarray]]]:
    """Trains from the state's step to the end of the run.

    Args:
        experiment: the run.
        state: on the device; donated.
        images: all training images, on the device.
        progress: what is counted here.

    Yields:
        (epochs done, state, metrics of each of the epoch's steps).

    Raises:
        NonFiniteError: a metric became NaN or infinite.
    """
    per_epoch = experiment.steps_per_epoch
    training = Pass(
        experiment,
        make_dispatch(assemble.training_step(experiment), state, experiment),
        images,
        experiment.keys.order,
        per_epoch,
        progress,
    )
    for epoch in range(int(state.step) // per_epoch, experiment.config.training.epochs):
        state, metrics = training.run_epoch(state, epoch)
        yield epoch + 1, state, metrics
