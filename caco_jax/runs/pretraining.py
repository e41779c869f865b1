"""A pretraining run as objects: method, encoder, data, settings; not its progress."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from caco_jax.data.dataset import Dataset, as_dataset
from caco_jax.data.pipeline import BadImages
from caco_jax.data.view_kinds import as_views, without_key
from caco_jax.data.views import ViewsFn, make_evaluation_view, make_views
from caco_jax.methods.method import Encode, Method, Network
from caco_jax.methods.registry import MethodBuilder
from caco_jax.nets.encoder import with_projector
from caco_jax.nets.functions import embedding_dim
from caco_jax.optim.settings import OptimizerConfig, TargetConfig
from caco_jax.runs.checks import (
    as_method,
    check_method,
    check_names,
    check_sizes,
    view_shapes,
)
from caco_jax.runs.describe import describe
from caco_jax.runs.settings import EvaluationConfig, TrainingConfig
from caco_jax.runs.workdir import BUILT_OF, OBJECTS
from caco_jax.schema import Conflicts
from caco_jax.training.encode import make_encode, microbatched, spread_rows
from caco_jax.training.feeds import (
    Layout,
    OpenFeed,
    dispatch_shapes,
    layout_of,
    open_feeds,
)
from caco_jax.training.loop import DispatchFn, make_dispatch
from caco_jax.training.sharding import (
    make_mesh,
    on_cpu,
    place,
    replicated,
    rows,
    state_shardings,
)
from caco_jax.training.state import TrainState, create_state
from caco_jax.training.step import StepFn, make_optimizer, make_train_step

if TYPE_CHECKING:
    from caco_jax.runs.fit import Reporter
    from caco_jax.runs.preemption import Stop
    from caco_jax.runs.run import Run

Optimizer: TypeAlias = OptimizerConfig | optax.GradientTransformation
# That a device makes views of at once, where its fast memory is larger than a cache.
_ROWS_OF_VIEWS = 8


class Keys(NamedTuple):
    """Independent streams of random numbers, all from the run's seed."""

    encoder: PRNGKeyArray
    players: PRNGKeyArray
    order: PRNGKeyArray
    steps: PRNGKeyArray
    start_up_order: PRNGKeyArray
    start_up_steps: PRNGKeyArray

    @classmethod
    def from_seed(cls, seed: int) -> "Keys":
        """The streams of a seed."""
        return cls(*jax.random.split(jax.random.key(seed), len(cls._fields)))


class Description(NamedTuple):
    """The saved description of a run, to compare it with others and to rebuild it.

    Attributes:
        values: nested plain values.
        complete: adds defaults of newer keys to values that an older version saved.
    """

    values: Mapping[str, Any]
    complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda values: values


class Pretraining:
    """A pretraining run, built of objects; `fit` trains it in a directory.

    Args:
        method: ``caco_jax.methods.caco(bank_size=4096)`` or its like, a `Method`, or a
            function embedding_dim -> `Method`.
        encoder: a flax.linen module, a pair of functions (init, apply) or
            `EncoderFunctions`; see `caco_jax.nets.as_encoder`.
        views: functions (key, example) -> example, two of them for most methods; or
            `Views`, which also normalise.
        data: examples [M, ...] of any rank and dtype; (examples, labels [M]), of which
            a tenth of each class is held out for kNN; or a `Dataset`.
        projector: a flax.linen module after the encoder, or the widths of an MLP.
            Evaluation then uses the encoder's output. None: the encoder's output is the
            embedding.
        optimizers: optimisers by player: a descending optax transformation or an
            `OptimizerConfig`. The other players have the method's defaults.
        batch_size: examples in one step, over all devices together.
        epochs: passes over the data.
        seed: seed of all random numbers.
        evaluation_view: example -> example, for kNN and evaluation; by default the
            identity.
        target: momentum of the target encoder.
        evaluation: the kNN monitor.
        batchnorm_group: rows that share statistics in the encoder, if it has groups.
        mesh: the devices; None: all.
        description: saved description of the run; None: made from the objects.
        **training: other fields of `caco_jax.runs.settings.TrainingConfig`, such as
            ``checkpoint_every_epochs``, ``microbatches`` or ``skip_nonfinite``.

    Raises:
        ConfigError: the parts do not fit each other or the devices. Nothing was
            compiled or written.
    """

    def __init__(
        self,
        *,
        method: Method | MethodBuilder | Callable[[int], Method],
        encoder: Any,
        views: Any,
        data: Any,
        projector: nn.Module | tuple[int, ...] | None = None,
        optimizers: Mapping[str, Optimizer] | None = None,
        batch_size: int = 256,
        epochs: int = 100,
        seed: int = 0,
        evaluation_view: Callable[[Array], Array] | None = None,
        target: TargetConfig | None = None,
        evaluation: EvaluationConfig | None = None,
        batchnorm_group: int | None = None,
        mesh: Mesh | None = None,
        description: Description | None = None,
        **training: Any,
    ) -> None:
        self._arguments = {
            **{name: value for name, value in locals().items() if name in _ARGUMENTS},
            **training,
        }
        check_names(training)
        self.training = TrainingConfig(batch_size=batch_size, epochs=epochs, **training)
        self.target = target or TargetConfig()
        self.evaluation = evaluation or EvaluationConfig()
        self.batchnorm_group = batchnorm_group
        self.seed, self.keys = seed, Keys.from_seed(seed)
        self.mesh = make_mesh() if mesh is None else mesh
        self.data: Dataset = as_dataset(data)
        self.views = as_views(views)
        if evaluation_view is not None:
            self.views = dataclasses.replace(
                self.views, evaluation=without_key(evaluation_view)
            )
        with Conflicts() as found:
            with found.noting():
                check_sizes(self.training, self.data, self.mesh.size)
            self._join(method, encoder, projector, optimizers or {})
        self.training_optimizer()  # checks that the parts fit, before anything runs
        self.description = description or Description(_described(self))

    def _join(
        self,
        method: Any,
        encoder: Any,
        projector: Any,
        optimizers: Mapping[str, Optimizer],
    ) -> None:
        """Makes the parts that depend on others, and checks them."""
        self.view_shapes = view_shapes(self)
        self.encoder = with_projector(encoder, projector)
        rows = self.training.batch_size // self.training.microbatches
        dim = embedding_dim(self.encoder, self.view_shapes, batch_size=rows)
        self.method: Method = as_method(method, dim)
        self.optimizers = {
            name: optimizers.get(name)
            or self.method.optimizers.get(name, OptimizerConfig())
            for name, move in self.method.moves.items()
            if move != "hold"
        }
        check_method(self, optimizers)

    def replace(self, **changes: Any) -> "Pretraining":
        """The same run with other arguments."""
        return Pretraining(**{**self._arguments, **changes})

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch; an incomplete last batch is dropped."""
        return self.data.train_count // self.training.batch_size

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, without the start-up phase."""
        return self.training.epochs * self.steps_per_epoch

    @property
    def start_up_steps(self) -> int:
        """Steps of the start-up phase; 0 without one."""
        phase = self.method.start_up
        if phase is None:
            return 0
        if phase.epochs > 0:
            return phase.epochs * self.steps_per_epoch
        to_fill = -(-phase.examples // self.training.batch_size)
        return min(to_fill, self.steps_per_epoch)

    # Its state

    def new_network(self) -> Network:
        """The encoder as it is before training."""
        # Zeros, because making views outside of jit compiles each operation separately.
        view = self.view_shapes[0]
        example = jnp.zeros((2, *view.shape[1:]), view.dtype)
        return jax.jit(self.encoder.init)(self.keys.encoder, example)

    def initial_state(self) -> TrainState:
        """The state at step 0 of training, before a start-up phase."""
        return create_state(
            self.keys.players,
            self.method,
            self.new_network(),
            self.training_optimizer(),
        )

    def state_shapes(self) -> TrainState:
        """Shape, dtype and sharding of each array of the state; nothing is computed."""
        state = jax.eval_shape(self.initial_state)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            state,
            self.shardings(state),
        )

    def shardings(self, state: TrainState) -> TrainState:
        """Shardings of the arrays of the run's state, see `state_shardings`."""
        return state_shardings(
            state,
            self.mesh,
            row_sharded=self.method.row_sharded,
            shard_encoder=self.training.shard_encoder,
        )

    def place(self, state: TrainState) -> TrainState:
        """Puts a state, which every process has whole, on the run's devices."""
        return place(state, self.shardings(state))

    # Its steps

    def training_optimizer(self) -> optax.GradientTransformation:
        """All players' optimisers with their schedules."""
        return make_optimizer(
            self.method, {name: self.player_optimizer(name) for name in self.optimizers}
        )

    def player_optimizer(self, name: str) -> optax.GradientTransformation:
        """The optimiser of a player with its schedule, as a descending optax object."""
        part = self.optimizers[name]
        if not isinstance(part, OptimizerConfig):
            return part
        return part.transformation(self._schedule(part))

    def learning_rates(self, step: int) -> dict[str, float]:
        """Each player's learning rate at a step, by name; unknown of optax's."""
        return {
            name: float(self._schedule(part)(step))
            for name, part in self.optimizers.items()
            if isinstance(part, OptimizerConfig)
        }

    def _schedule(self, part: OptimizerConfig) -> optax.Schedule:
        return part.schedule_of(
            batch_size=self.training.batch_size,
            epochs=self.training.epochs,
            steps_per_epoch=self.steps_per_epoch,
        )

    def start_up_optimizer(self) -> optax.GradientTransformation:
        """The optimisers of the start-up phase: the encoder at its full rate."""
        assert self.method.start_up is not None
        part = self.optimizers["encoder"]
        if isinstance(part, OptimizerConfig):
            # A state of the same structure as with a schedule, so that momentum can be
            # reused.
            rate = part.first_rate(self.training.batch_size)
            part = part.transformation(optax.constant_schedule(rate))
        phase = self.method.start_up.method
        # Players that the phase does not name do not move.
        moves = {name: phase.moves.get(name, "hold") for name in self.method.moves}
        phase = phase._replace(moves=moves)
        return make_optimizer(phase, {"encoder": part})

    def encode(self) -> Encode:
        """Makes the encoding of the run: whole batches or microbatches."""
        gather = None
        if self.training.shard_encoder:
            gather = functools.partial(
                jax.lax.with_sharding_constraint, shardings=replicated(self.mesh)
            )
        encode = microbatched(
            make_encode(self.encoder, gather=gather).online,
            self.training.microbatches,
            group_size=self.batchnorm_group,
            unroll=on_cpu(self.mesh),
        )
        encode = spread_rows(encode, rows(self.mesh))
        return Encode(encode, encode)

    def make_views(self) -> ViewsFn:
        """How a step makes its views: on accelerators, some rows after the others."""
        count = self.training.batch_size // self.mesh.size
        alone = on_cpu(self.mesh) or not self.views.are_photos
        parts = 1 if alone else count // math.gcd(count, _ROWS_OF_VIEWS)
        return make_views(self.views, parts=parts)

    def training_step(self) -> StepFn:
        """The training step."""
        return make_train_step(
            self.method,
            encode=self.encode(),
            make_views=self.make_views(),
            optimizer=self.training_optimizer(),
            target_momentum=self.target.momentum_of(
                epochs=self.training.epochs, steps_per_epoch=self.steps_per_epoch
            ),
            key=self.keys.steps,
            shuffle_keys=self.target.shuffle_keys,
        )

    def start_up_step(self) -> StepFn:
        """The step of the start-up phase, which the method must have."""
        start_up = self.method.start_up
        assert start_up is not None
        momentum = start_up.target_momentum
        if momentum is None:
            momentum = self.target.momentum
        return make_train_step(
            start_up.method,
            encode=self.encode(),
            make_views=self.make_views(),
            optimizer=self.start_up_optimizer(),
            target_momentum=optax.constant_schedule(momentum),
            key=self.keys.start_up_steps,
            shuffle_keys=self.target.shuffle_keys,
        )

    def dispatch(self, step: StepFn, state: TrainState, layout: Layout) -> DispatchFn:
        """The compiled program of several steps, see `make_dispatch`."""
        return make_dispatch(
            step,
            state,
            layout,
            self.mesh,
            row_sharded=self.method.row_sharded,
            shard_encoder=self.training.shard_encoder,
            skip_nonfinite=self.training.skip_nonfinite > 0,
        )

    def lower_step(self) -> jax.stages.Lowered:
        """The program of one training step, traced for the run's mesh.

        It is the program that `fit` runs. It can be compiled for devices of another
        machine.
        """
        fixed, chosen = dispatch_shapes(self.data, self.views, self.training.batch_size)
        with jax.set_mesh(self.mesh):
            state = self.state_shapes()
            layout = layout_of(self.data, self.mesh)
            dispatch: Any = self.dispatch(self.training_step(), state, layout)
            return dispatch.lower(state, fixed, chosen)

    # Its examples

    def feeds(self, bad: BadImages | None = None) -> OpenFeed:
        """The feeds of the training examples, see `open_feeds`."""
        return open_feeds(
            self.data,
            self.views,
            self.mesh,
            batch_size=self.training.batch_size,
            steps_per_dispatch=self.training.steps_per_dispatch,
            bad=bad,
        )

    def evaluation_input(self) -> Callable[[Array], Array]:
        """A batch of examples -> the encoder's input at evaluation."""
        return make_evaluation_view(self.views)

    # Use of the run

    def fit(
        self,
        workdir: str | os.PathLike,
        *,
        force_new: bool = False,
        changes: Collection[str] = (),
        stop: "Stop | None" = None,
        reporter: "Reporter | None" = None,
    ) -> dict[str, Any]:
        """Trains to the end; resumes a run that exists in the directory.

        See `caco_jax.runs.fit.fit` for arguments, summary and errors.
        """
        from caco_jax.runs.fit import fit

        how: dict[str, Any] = {"force_new": force_new, "changes": changes}
        return fit(self, workdir, **how, stop=stop, reporter=reporter)

    def dry_run(self, workdir: str | os.PathLike, **how: Any) -> dict[str, Any]:
        """Checks the run without training or writing; see `runs.dry_run.dry_run`."""
        from caco_jax.runs.dry_run import dry_run

        return dry_run(self, workdir, **how)

    def load(self, workdir: str | os.PathLike) -> "Run":
        """Loads the run of a directory with its newest state, to evaluate or report.

        Raises:
            UserError: there is no run of this description, or it saved nothing yet.
        """
        from caco_jax.runs.run import read_run

        return read_run(self, workdir)


_ARGUMENTS = {
    *("method", "encoder", "views", "data", "projector", "optimizers", "batch_size"),
    *("epochs", "seed", "evaluation_view", "target", "evaluation", "batchnorm_group"),
    *("mesh", "description"),
}


def _described(run: Pretraining) -> dict[str, Any]:
    """The description of a run that was built in Python, by plain values."""
    settings = run.method.settings
    known = {} if settings is None else describe(settings)
    view = run.view_shapes[0]
    return {
        BUILT_OF: OBJECTS,
        "method": {"name": run.method.name, **known},
        "encoder": {
            "name": run.encoder.name,
            "module": describe(run.encoder.module),
            "view": [list(view.shape[1:]), str(view.dtype)],
        },
        "data": {"name": run.data.name},
        "views": describe(run.views),
        "optimizers": {name: describe(part) for name, part in run.optimizers.items()},
        "target": dataclasses.asdict(run.target),
        "training": dataclasses.asdict(run.training),
        "evaluation": dataclasses.asdict(run.evaluation),
        "seed": run.seed,
    }
