"""A model of the least memory traffic of a training step.

Each array goes through main memory as seldom as a step allows whose layers do not stay
on the chip from one to the next:

- what a layer with weights reads (an activation): written once and read once; where
  there is a backward pass, read again for the weights' gradient, and its own gradient
  written and read;
- views: written once, and read by each network, and once more for the first gradient;
- the state (parameters, target, optimiser, bank): read and written once;
- gradients of what moves: written and read once; examples: read once.

What can be computed again from these costs nothing: what lies between two layers with
weights, such as normalised values and scores of attention. XLA's own programs move
more, as they make and read some of those.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from caco_jax.data.views import make_views
from caco_jax.methods.method import Context, View
from caco_jax.runs.pretraining import Pretraining
from caco_jax.training.feeds import step_examples
from caco_jax.training.state import TrainState

Taint = frozenset[str]
_DATA, _ONLINE, _TARGET = "data", "online", "target"
_PRODUCTS = ("dot_general", "conv_general_dilated")
# What gives the same array in another dtype or shape.
_SAME = ("convert_element_type", "reshape", "transpose", "copy", "squeeze")
_MOVES = {_ONLINE: 5, _TARGET: 2}


@dataclasses.dataclass(frozen=True)
class Floor:
    """Bytes that a chip must move in one step.

    Attributes:
        activations: of the networks, with their gradients and the views.
        state: of all that a step changes.
        gradients: of the players that move.
        examples: that come in.
    """

    activations: float
    state: float
    gradients: float
    examples: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.activations + self.state + self.gradients + self.examples


@dataclasses.dataclass(frozen=True)
class _Known:
    """What is known of an array: what it depends on, and the array it is a copy of."""

    depends: Taint = frozenset()
    root: Any = None


def floor_of(run: Pretraining) -> Floor:
    """The least that each chip of a run must move in a step of training."""
    chips, batch = run.mesh.size, run.training.batch_size
    examples = step_examples(run.data, run.views, batch)
    with jax.set_mesh(run.mesh):
        state = run.state_shapes()
        key = jax.eval_shape(lambda: jax.random.key(0))
        views = jax.eval_shape(make_views(run.views), key, examples)
        reads = _reads_of_networks(run, state, views)
        moving = {
            n: p for n, p in state.players.items() if run.method.moves[n] != "hold"
        }
    activations = sum(_moved(read) for read in reads.values())
    activations += sum(view.size * view.dtype.itemsize for view in views)
    kept = sum(_local_bytes(leaf) for leaf in jax.tree.leaves(state))
    gradients = sum(_local_bytes(leaf) for leaf in jax.tree.leaves(moving))
    incoming = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(examples))
    return Floor(activations / chips, 2.0 * kept, 2.0 * gradients, incoming / chips)


def _local_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    assert leaf.sharding is not None
    itemsize = getattr(leaf.dtype, "itemsize", 4)
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * itemsize


@dataclasses.dataclass(frozen=True)
class _Read:
    """An array that layers of one network read."""

    num_bytes: int
    network: str
    is_view: bool


def _moved(read: _Read) -> int:
    if read.is_view:  # its writing is counted once for all networks
        return read.num_bytes * (2 if read.network == _ONLINE else 1)
    return read.num_bytes * _MOVES[read.network]


def _reads_of_networks(
    run: Pretraining, state: TrainState, views: Sequence[jax.ShapeDtypeStruct]
) -> Mapping[Any, _Read]:
    """What the layers with weights read in a step, each array once for each network."""
    encode = run.encode()

    def payoff(players: Any, state: TrainState, views: Any) -> Any:
        context = Context(state.stats, state.target, state.extra, encode)
        return run.method.payoff(players, context, [View(view) for view in views])

    def label(tree: Any, name: str) -> list[Taint]:
        return [frozenset({name} if name else ())] * len(jax.tree.leaves(tree))

    arguments = (state.players, state, views)
    known = [
        taint
        for name, player in sorted(state.players.items())
        for taint in label(player, _ONLINE if name == "encoder" else "")
    ]
    for field, value in zip(state._fields, state, strict=True):
        if field == "target" and value is not None:
            known += label(value.params, _TARGET) + label(value.stats, "")
        else:
            known += label(value, "")
    known += label(views, _DATA)
    jaxpr = jax.make_jaxpr(payoff)(*arguments)
    given = [
        _Known(taint, var) for taint, var in zip(known, jaxpr.jaxpr.invars, strict=True)
    ]
    found: dict[Any, _Read] = {}
    _walk(jaxpr.jaxpr, given, 1, (), found)
    return found


def _walk(
    jaxpr: Any,
    given: Sequence[_Known],
    times: int,
    place: tuple[Any, ...],
    found: dict[Any, _Read],
) -> list[_Known]:
    """Follows what each array depends on; returns it for the results."""
    known: dict[Any, _Known] = dict(zip(jaxpr.invars, given, strict=True))

    def of(atom: Any) -> _Known:
        return _Known() if hasattr(atom, "val") else known.get(atom, _Known())

    for eqn in jaxpr.eqns:
        inputs = [of(atom) for atom in eqn.invars]
        depends = frozenset().union(*(one.depends for one in inputs))
        if eqn.primitive.name in _PRODUCTS:
            _note(eqn, inputs, times, found)
        inner = _called(eqn)
        if inner is not None and len(inner.invars) == len(inputs):
            turns = times * eqn.params.get("length", 1)
            results = _walk(inner, inputs, turns, (*place, id(eqn)), found)
        elif eqn.primitive.name in _SAME:
            results = [_Known(depends, inputs[0].root)]
        else:
            results = [_Known(depends) for _ in eqn.outvars]
        for var, one in zip(eqn.outvars, results, strict=True):
            root = (*place, var) if one.root is None else one.root
            known[var] = _Known(one.depends, root)
    return [of(atom) for atom in jaxpr.outvars]


def _called(eqn: Any) -> Any:
    """The one program that an equation runs on its operands, if it does."""
    if eqn.primitive.name in ("while", "cond", "shard_map"):
        return None
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return getattr(inner, "jaxpr", inner)


def _note(
    eqn: Any, inputs: Sequence[_Known], times: int, found: dict[Any, _Read]
) -> None:
    """Notes what a product of an activation with weights reads."""
    for atom, one, other in zip(eqn.invars, inputs, reversed(inputs), strict=True):
        for network in other.depends if len(other.depends) == 1 else ():
            if network in _MOVES and _DATA in one.depends:
                size = times * atom.aval.size * atom.aval.dtype.itemsize
                key = (network, one.root)
                before = found[key].num_bytes if key in found else 0
                is_view = one.depends == {_DATA}
                found[key] = _Read(max(size, before), network, is_view)
