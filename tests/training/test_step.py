"""One step of a method: what moves, in which direction, from which randomness."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from caco_jax import methods
from caco_jax.data.views import make_views
from caco_jax.methods.method import Context, Encode, Method, Network, Outcome, View
from caco_jax.optim import optimizers
from caco_jax.optim.settings import OptimizerConfig
from caco_jax.runs.pretraining import Keys, Pretraining
from caco_jax.training.encode import make_encode
from caco_jax.training.feeds import resident_layout
from caco_jax.training.sharding import make_mesh
from caco_jax.training.state import create_state
from caco_jax.training.step import make_optimizer, make_train_step
from tests.runs import tiny

# One worker runs them all: they share what a fixture trained.
pytestmark = pytest.mark.xdist_group("step")

RATE = 0.5
BATCHES = np.arange(48).reshape(3, 16)


class Steps(NamedTuple):
    """Consecutive steps on one device, without donation, with their gradients."""

    run: Pretraining
    states: list
    metrics: list
    gradients: list


def run_steps(run, count):
    step = jax.jit(run.training_step())
    images = tiny.train_examples(run)
    states, metrics = [jax.jit(run.initial_state)()], []
    for rows in BATCHES[:count]:
        state, values = step(states[-1], images[rows])
        states.append(state)
        metrics.append(values)
    return Steps(run, states, metrics, [])


@pytest.fixture(scope="module", params=list(tiny.METHODS))
def steps(request, devices):
    steps = run_steps(tiny.run(request.param), 3)
    gradient = jax.jit(make_gradient(steps.run))
    for index in range(2):
        target = moved_target(steps, index)
        steps.gradients.append(gradient(steps.states[index], target, BATCHES[index]))
    return steps


def moved_target(steps, index):
    """The target that step `index` must have encoded with."""
    run, state, config = steps.run, steps.states[index], steps.run.target
    total = run.total_steps
    epoch = index // run.steps_per_epoch * run.steps_per_epoch
    momentum = 1 - (1 - config.momentum) * (1 + np.cos(np.pi * epoch / total)) / 2
    params = jax.tree.map(
        lambda old, new: momentum * old + (1 - momentum) * new,
        state.target.params,
        state.players["encoder"],
    )
    return Network(params, state.target.stats)


def make_gradient(run):
    """A function of (state, target, rows): the payoff's gradient for all players."""
    views_of = make_views(run.views)
    images = tiny.train_examples(run)

    def gradient(state, target, rows):
        key = jax.random.fold_in(run.keys.steps, state.step)
        views = [View(view) for view in views_of(key, images[rows])]
        context = Context(
            stats=state.stats,
            target=target,
            extra=state.extra,
            encode=make_encode(run.encoder),
        )

        def payoff(players):
            return run.method.payoff(players, context, views)[0]

        return jax.grad(payoff)(state.players)

    return gradient


def assert_trees_close(found, expected, **tolerance):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **tolerance), found, expected
    )


def assert_trees_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def describe(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


def test_a_step_keeps_tree_shapes_and_dtypes(steps):
    first, *later = map(describe, steps.states)
    for state in later:
        assert state == first
    assert [int(state.step) for state in steps.states] == [0, 1, 2, 3]


def test_a_step_moves_every_player_and_the_targets_statistics(steps):
    before, after = steps.states[1:3]
    for old, new in zip(
        jax.tree.leaves((before.players, before.stats, before.target)),
        jax.tree.leaves((after.players, after.stats, after.target)),
        strict=True,
    ):
        assert not np.array_equal(old, new)


def test_the_same_seed_gives_the_same_bits(steps):
    again = run_steps(tiny.run(steps.run.method.name).replace(), 2)
    assert_trees_equal(again.states, steps.states[:3])
    assert_trees_equal(again.metrics, steps.metrics[:2])


def test_a_seed_has_streams_of_its_own():
    streams = [
        tuple(map(int, jax.random.key_data(key)))
        for seed in (0, 1)
        for key in Keys.from_seed(seed)
    ]
    assert len(set(streams)) == len(streams)
    again = [tuple(map(int, jax.random.key_data(k))) for k in Keys.from_seed(0)]
    assert streams[: len(again)] == again


def test_the_target_is_averaged_before_the_step_and_gets_no_gradient(steps):
    # Statistics belong to each network: those of the target come from its own passes.
    for index in range(2):
        params = steps.states[index + 1].target.params
        expected = moved_target(steps, index).params
        assert_trees_close(params, expected, rtol=1e-6, atol=1e-7)


def test_statistics_are_never_averaged_into_the_target(steps):
    run, state, plain = steps.run, *steps.states[:2]
    shifted = jax.tree.map(lambda leaf: leaf + 5.0, state.stats)
    images = tiny.train_examples(run)[BATCHES[0]]
    other, _ = jax.jit(run.training_step())(state._replace(stats=shifted), images)
    assert_trees_equal(plain.target.stats, other.target.stats)
    for one, another in zip(
        *map(jax.tree.leaves, (plain.stats, other.stats)), strict=True
    ):
        assert not np.array_equal(one, another)


def test_the_bank_ascends_the_payoff_with_momentum_and_decay(steps):
    config = steps.run.optimizers["bank"]
    decay = {"caco": 0.0, "adco": 1e-4}[steps.run.method.name]
    assert (config.learning_rate, config.momentum) == (3.0, 0.9)
    assert config.weight_decay == decay
    velocity = np.zeros(())
    for index in range(2):
        gradient = steps.gradients[index]["bank"]
        before, after = (s.players["bank"] for s in steps.states[index : index + 2])
        velocity = config.momentum * velocity - gradient + decay * before
        np.testing.assert_allclose(
            after - before, -config.learning_rate * velocity, rtol=1e-3, atol=2e-6
        )
    assert np.abs(gradient).max() > 1e-3


def test_the_encoder_descends_the_payoff_with_momentum_and_decay(steps):
    config = steps.run.optimizers["encoder"]
    velocity = jax.tree.map(jnp.zeros_like, steps.states[0].players["encoder"])
    for index in range(2):
        before, after = (s.players["encoder"] for s in steps.states[index : index + 2])
        velocity = jax.tree.map(
            lambda v, g, p: config.momentum * v + g + config.weight_decay * p,
            velocity,
            steps.gradients[index]["encoder"],
            before,
        )
        expected = jax.tree.map(
            lambda p, v: p - config.learning_rate * v, before, velocity
        )
        assert_trees_close(after, expected, rtol=1e-4, atol=2e-6)


def test_the_norm_of_each_players_gradient_is_a_metric(steps):
    for metrics, gradients in zip(steps.metrics, steps.gradients, strict=False):
        for player, gradient in gradients.items():
            squares = sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient))
            found = metrics[f"gradient_norm_{player}"]
            assert found == pytest.approx(np.sqrt(squares), rel=1e-4)


class Spread(NamedTuple):
    """The same steps through the loop's dispatch, on eight devices."""

    given: list
    found: list
    traces: int
    compiled: int
    sizes: dict


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "sharded"])
def spread(request, steps, devices):
    run = steps.run.replace(mesh=make_mesh(devices), shard_encoder=request.param)
    inner, traces = run.training_step(), []

    def counted(state, images):
        traces.append(1)
        return inner(state, images)

    given, found = [], []
    images = tiny.train_examples(run)
    with jax.set_mesh(run.mesh):
        state = run.place(jax.tree.map(np.array, steps.states[0]))
        dispatch = run.dispatch(counted, state, resident_layout(run.mesh))
        for rows in BATCHES:
            given.append(state)
            state, metrics = dispatch(state, images, rows[None])
            assert all(jax.tree.leaves(metrics.pop("finite")))
            found.append(jax.tree.map(np.array, (state, metrics)))
    sizes = {
        name: (sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), local_bytes(tree))
        for name, tree in {
            "encoder": state.players["encoder"],
            "target": state.target.params,
            "optimiser": state.opt_state.inner_states["encoder"],
        }.items()
    }
    return Spread(given, found, len(traces), dispatch._cache_size(), sizes)


def local_bytes(tree):
    """Of arrays, on the first device."""
    return sum(leaf.addressable_data(0).nbytes for leaf in jax.tree.leaves(tree))


def test_a_sharded_encoder_takes_an_eighth_of_each_device(spread, request):
    sharded = "sharded" in request.node.callspec.id
    for whole, local in spread.sizes.values():
        # Of the tiny encoder a bias of 4 is whole everywhere, and counts of steps are.
        assert local - 64 <= whole / 8 < local if sharded else local == whole


def test_later_steps_do_not_recompile(spread):
    assert (spread.traces, spread.compiled) == (1, 1)


def test_bank_and_batch_on_eight_devices_equal_plain_steps_on_one(spread, steps):
    for (state, metrics), expected, values in zip(
        spread.found[:2], steps.states[1:], steps.metrics, strict=False
    ):
        assert_trees_close(state, expected, rtol=1e-5, atol=1e-5)
        stacked = jax.tree.map(lambda value: value[None], values)
        assert_trees_close(metrics, stacked, rtol=1e-5, atol=1e-5)


def test_the_state_is_donated(spread):
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(spread.given))


# A payoff that shows what the step hands to a method: players "encoder" and "rival".


def reveal(players, context, views):
    x, y = players["encoder"], players["rival"]
    loss = jnp.sum(x * y) + jnp.sum(x**2)
    metrics = {
        "view": views[0].images,
        "target": context.target.params,
        "target_stats": context.target.stats,
    }
    return loss, Outcome(context.stats, context.target, {}, metrics)


def revealing_method(move):
    return Method(
        name="reveal",
        description="shows what it is given",
        moves={"encoder": "descend", "rival": move},
        uses_target=True,
        init=lambda key: (
            {"rival": jnp.asarray([3.0, -1.0])},
            {"calls": jnp.zeros(())},
        ),
        payoff=reveal,
        advance=lambda players, extra, outcome: (
            players,
            {"calls": extra["calls"] + players["rival"][0]},
        ),
    )


def revealed(move, *, key=7):
    """Two steps of the method above; each state with the metrics of the step to it."""
    method = revealing_method(move)
    plain = optimizers.sgd(RATE, momentum=0.0, weight_decay=0.0)
    moving = [name for name, kind in method.moves.items() if kind != "hold"]
    optimizer = make_optimizer(method, dict.fromkeys(moving, plain))
    network = Network(jnp.asarray([1.0, 2.0]), {"count": jnp.asarray(5.0)})
    state = create_state(jax.random.key(0), method, network, optimizer)
    target = Network(jnp.asarray([10.0, 20.0]), {"count": jnp.asarray(9.0)})
    state = state._replace(target=target)
    step = make_train_step(
        method,
        encode=Encode(lambda *_: None, lambda *_: None),
        make_views=lambda key, images: [jax.random.normal(key, images.shape) + images],
        optimizer=optimizer,
        target_momentum=lambda step: jnp.asarray([0.9, 0.5])[step],
        key=jax.random.key(key),
    )
    seen = [(state, None)]
    for _ in range(2):
        seen.append(step(seen[-1][0], jnp.ones((3,))))
    return seen


def test_views_come_from_the_key_and_the_step():
    for key in (7, 8):
        for index, (_, metrics) in enumerate(revealed("ascend", key=key)[1:]):
            step_key = jax.random.fold_in(jax.random.key(key), index)
            expected = jax.random.normal(step_key, (3,)) + 1
            np.testing.assert_array_equal(metrics["view"], expected)


def test_the_payoff_sees_the_target_after_its_move_toward_the_old_encoder():
    target = np.asarray([10.0, 20.0])
    seen = revealed("ascend")
    for (before, _), (_, metrics), momentum in zip(
        seen, seen[1:], (0.9, 0.5), strict=False
    ):
        target = momentum * target + (1 - momentum) * before.players["encoder"]
        np.testing.assert_allclose(metrics["target"], target, rtol=1e-6)
        assert metrics["target_stats"]["count"] == 9


@pytest.mark.parametrize("move, sign", [("ascend", 1), ("descend", -1), ("hold", 0)])
def test_players_move_together_each_in_its_direction(move, sign):
    x, y = np.asarray([1.0, 2.0]), np.asarray([3.0, -1.0])
    called = 0.0
    for state, metrics in revealed(move)[1:]:
        np.testing.assert_allclose(metrics["loss"], np.sum(x * y + x**2), rtol=1e-6)
        x, y = x - RATE * (y + 2 * x), y + sign * RATE * x
        called += y[0]  # what follows a step sees the players after their moves
        np.testing.assert_allclose(state.players["encoder"], x, rtol=1e-6)
        np.testing.assert_allclose(state.players["rival"], y, rtol=1e-6)
        np.testing.assert_allclose(state.extra["calls"], called, rtol=1e-6)


@pytest.mark.parametrize("move, given", [("ascend", ["encoder"]), ("hold", [])])
def test_every_player_that_moves_needs_its_optimiser(move, given):
    method = revealing_method(move)
    wanted = sorted(name for name, kind in method.moves.items() if kind != "hold")
    with pytest.raises(ValueError) as caught:
        make_optimizer(method, dict.fromkeys(given, optax.identity()))
    assert str(caught.value) == f"reveal: expected optimisers for {wanted}, got {given}"


def test_a_player_that_holds_takes_no_optimiser():
    method = revealing_method("hold")
    both = dict.fromkeys(method.moves, optax.identity())
    with pytest.raises(
        ValueError, match=r"expected optimisers for \['encoder'\], got \["
    ):
        make_optimizer(method, both)


def test_embeddings_are_unit_rows_in_train_mode():
    run = tiny.run()
    network = run.new_network()
    images = jax.random.normal(jax.random.key(2), (6, 8, 8, 1)) * 3 + 1
    for encode in make_encode(run.encoder):
        one = jax.jit(lambda images, encode=encode: encode(network, View(images)))
        embeddings, after = one(images)
        np.testing.assert_allclose(jnp.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
        # Train mode: an example's embedding depends on the batch around it.
        part, _ = one(images[:4])
        assert np.abs(part - embeddings[:4]).max() > 1e-3
        assert_trees_equal(after.params, network.params)
        params, stats = network.params["backbone"], after.stats["backbone"]
        hidden = np.reshape(images, (6, -1)) @ np.asarray(params["hidden"]["kernel"])
        expected = 0.1 * hidden.mean(axis=0)
        mean = stats["norm"]["mean"]
        np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "constant"},
        {"schedule": "cosine", "warmup_epochs": 1},
        {"name": "adam"},
        {"name": "lars", "scale_with_batch": True},
    ],
)
def test_a_player_whose_rate_is_zero_stays_bit_for_bit(settings):
    part = OptimizerConfig(learning_rate=0.0, weight_decay=0.1, **settings)
    schedule = part.schedule_of(batch_size=512, epochs=3, steps_per_epoch=2)
    method = methods.adco(bank_size=4)(3)
    optimizer = make_optimizer(
        method, {"encoder": optax.sgd(0.1), "bank": part.transformation(schedule)}
    )
    rows = jax.random.normal(jax.random.key(0), (4, 3))
    players = {"encoder": rows, "bank": 100 * rows}
    state = optimizer.init(players)
    for _ in range(6):
        gradients = {"encoder": rows, "bank": rows}
        updates, state = optimizer.update(gradients, state, players)
        players = optax.apply_updates(players, updates)
    assert np.asarray(players["bank"]).tobytes() == np.asarray(100 * rows).tobytes()
    assert np.abs(players["encoder"] - rows).max() > 0.1


@pytest.mark.parametrize("method", tiny.METHODS)
def test_a_frozen_bank_outlasts_steps_that_move_the_encoder(method, devices):
    frozen = {"learning_rate": 0.0, "weight_decay": 0.1}
    changes = {f"bank_optimizer__{name}": value for name, value in frozen.items()}
    before, *_, after = run_steps(tiny.run(method, **changes), 2).states
    bank = (np.asarray(state.players["bank"]) for state in (before, after))
    assert len({rows.tobytes() for rows in bank}) == 1
    moved = jax.tree.map(
        np.subtract, before.players["encoder"], after.players["encoder"]
    )
    assert all(np.any(leaf) for leaf in jax.tree.leaves(moved))
