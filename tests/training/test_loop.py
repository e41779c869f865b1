"""The loop: its orders, its dispatches, what start-up leaves, and going on."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.data.views import make_views
from caco_jax.optim import optimizers
from caco_jax.runs import fit
from caco_jax.training import loop
from caco_jax.training.feeds import epoch_order
from caco_jax.training.finite_check import NonFiniteError
from caco_jax.training.sharding import replicated
from tests.runs import tiny
from tests.training.test_step import assert_trees_close, assert_trees_equal, describe

# One worker runs them all: they share what a fixture trained.
pytestmark = pytest.mark.xdist_group("loop")


def start_up(run, throughput=None):
    """The state after start-up, on the host."""
    throughput = loop.Throughput() if throughput is None else throughput
    with jax.set_mesh(run.mesh):
        state = fit.start_up(run, run.feeds(), throughput)
    return jax.tree.map(np.array, state)


@pytest.fixture(scope="module")
def started():
    """(a run, its state after start-up on one device)."""
    run = tiny.run()
    return run, start_up(run)


def unit(rows):
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


def info_nce_loss(queries, keys, bank, temperature):
    positive = jnp.sum(queries * keys, axis=1, keepdims=True)
    logits = jnp.concatenate([positive, queries @ unit(bank).T], axis=1) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])


@pytest.fixture(scope="module")
def start_up_by_hand(started):
    """CaCo's start-up written out: encoder, target, bank, both statistics, momentum."""
    run, _ = started
    images = tiny.train_examples(run)
    encoder, config = run.encoder.module, run.optimizers["encoder"]
    network = run.new_network()
    views_of = make_views(run.views)
    order = epoch_order(run.keys.start_up_order, 0, count=48, steps=3, batch_size=16)

    def encode(params, stats, view):
        variables = {"params": params, "batch_stats": stats}
        rows, new = encoder.apply(variables, view, train=True, mutable=["batch_stats"])
        return unit(rows), new["batch_stats"]

    @jax.jit
    def step(index, batch, online, stats, target, target_stats, velocity, bank):
        key = jax.random.fold_in(run.keys.start_up_steps, index)
        views = views_of(key, batch)
        target = jax.tree.map(lambda t, o: 0.999 * t + 0.001 * o, target, online)
        for view in views:
            keys, target_stats = encode(target, target_stats, view)

        def loss(params):
            queries, after = encode(params, stats, views[0])
            _, after = encode(params, after, views[1])
            return info_nce_loss(queries, keys, bank[:40], 0.2), after

        gradient, stats = jax.grad(loss, has_aux=True)(online)
        velocity = jax.tree.map(
            lambda v, g, p: config.momentum * v + g + config.weight_decay * p,
            velocity,
            gradient,
            online,
        )
        online = jax.tree.map(
            lambda p, v: p - config.learning_rate * v, online, velocity
        )
        bank = jax.lax.dynamic_update_slice(bank, keys, (16 * index, 0))
        return online, stats, target, target_stats, velocity, bank

    zeros = jax.tree.map(jnp.zeros_like, network.params)
    bank = jnp.zeros((48, 4))  # with a place for the keys that do not fit in 40
    others, _ = run.method.init(run.keys.players)
    carry = (*network, *network, zeros, bank.at[:40].set(others["bank"]))
    for index, rows in enumerate(order):
        carry = step(index, images[rows], *carry)
    return carry


def test_start_up_fills_the_bank_with_the_targets_keys(started, start_up_by_hand):
    *_, bank = start_up_by_hand
    found = started[1].players["bank"]
    np.testing.assert_allclose(found, bank[:40], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_start_up_trains_the_encoder_and_hands_its_momentum_over(
    started, start_up_by_hand
):
    online, stats, _, target_stats, velocity, _ = start_up_by_hand
    _, state = started
    close = {"rtol": 1e-4, "atol": 1e-5}
    assert_trees_close(state.players["encoder"], online, **close)
    assert_trees_close(state.stats, stats, **close)
    # The target becomes the online encoder, but for its own statistics.
    assert_trees_equal(state.target.params, state.players["encoder"])
    assert_trees_close(state.target.stats, target_stats, **close)
    differ = jax.tree.map(np.array_equal, state.target.stats, state.stats)
    assert not any(jax.tree.leaves(differ))
    trace = state.opt_state.inner_states["encoder"].inner_state[1].trace["encoder"]
    assert_trees_close(trace, velocity, **close)


def counts(state):
    return [
        int(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if getattr(path[-1], "name", "") == "count"
    ]


def test_training_begins_at_step_zero_with_fresh_schedules_and_ages(started):
    run, state = started
    fresh = run.initial_state()
    assert int(state.step) == 0
    assert counts(state) == counts(fresh) == [0, 0]
    assert_trees_equal(state.extra, fresh.extra)
    bank_velocity = state.opt_state.inner_states["bank"]
    assert_trees_equal(bank_velocity, fresh.opt_state.inner_states["bank"])
    assert describe(jax.tree.map(jnp.asarray, state)) == describe(fresh)


def test_restarting_schedules_keeps_everything_but_counts():
    optimizer_state = optimizers.sgd(
        lambda count: 0.1, momentum=0.9, weight_decay=0.0
    ).init({"count": jnp.asarray(3.0)})
    decay, trace, schedule = optimizer_state
    schedule = schedule._replace(count=jnp.asarray(7))
    trace = trace._replace(trace={"count": jnp.asarray(4.0)})
    found = loop.restart_schedules((decay, trace, schedule))
    assert int(found[2].count) == 0
    assert float(found[1].trace["count"]) == 4.0  # a parameter of that name is none


def with_start_up(run, **changes):
    phase = run.method.start_up._replace(**changes)
    return run.replace(method=run.method._replace(start_up=phase))


def test_a_start_up_of_epochs_writes_the_bank_anew_each_time_round(started):
    run, once = started
    throughput = loop.Throughput()
    twice = start_up(with_start_up(run, epochs=2), throughput)
    assert throughput.images == 2 * 48
    # Three steps fill 16 + 16 + 8 rows; the second epoch begins at the first row.
    moved = np.abs(twice.players["bank"] - once.players["bank"]).max(axis=1)
    assert (moved > 1e-3).all()
    np.testing.assert_allclose(
        np.linalg.norm(twice.players["bank"], axis=1), 1, rtol=1e-5
    )


def test_a_start_up_ends_when_the_examples_suffice(started):
    run, once = started
    throughput = loop.Throughput()
    state = start_up(with_start_up(run, examples=17), throughput)
    assert throughput.images == 32
    bank, full = state.players["bank"], once.players["bank"]
    np.testing.assert_array_equal(bank[:32], full[:32])
    others, _ = run.method.init(run.keys.players)
    np.testing.assert_array_equal(bank[32:], others["bank"][32:])


def test_a_start_up_that_diverges_stops_there(started):
    run, _ = started
    warm = run.method.start_up.method

    def spoiled(players, context, views):
        loss, outcome = warm.payoff(players, context, views)
        filled = context.extra["next_row"] > 0  # from the second step on
        return jnp.where(filled, jnp.inf, loss), outcome

    diverging = with_start_up(run, method=warm._replace(payoff=spoiled))
    with pytest.raises(NonFiniteError, match=r"^start-up step 1: loss is inf") as found:
        start_up(diverging)
    assert (found.value.step, found.value.metric) == (1, "loss")


def test_a_method_without_a_start_up_begins_as_initialised():
    run = tiny.run()
    run = run.replace(method=run.method._replace(start_up=None))
    with jax.set_mesh(run.mesh):
        found = fit.start_up(run, run.feeds(), loop.Throughput())
    assert_trees_equal(found, run.initial_state())
    assert found.step.sharding == replicated(run.mesh)


def train(run, state, throughput=None):
    """All remaining epochs from a state on the host: [(epoch, state, metrics)]."""
    throughput = loop.Throughput() if throughput is None else throughput
    with jax.set_mesh(run.mesh):
        placed = run.place(jax.tree.map(np.array, state))
        return [
            (epoch, jax.tree.map(np.array, after), metrics)
            for epoch, after, metrics in fit.train_epochs(
                run, placed, run.feeds(), throughput
            )
        ]


@pytest.fixture(scope="module")
def trained(started):
    throughput = loop.Throughput()
    return train(*started, throughput), throughput


def test_every_epoch_is_yielded_with_the_metrics_of_its_steps(trained):
    epochs, _ = trained
    assert [epoch for epoch, _, _ in epochs] == [1, 2, 3, 4]
    assert [int(state.step) for _, state, _ in epochs] == [3, 6, 9, 12]
    for _, _, metrics in epochs:
        assert {"loss", "cross_entropy", "embedding_std"} <= set(metrics)
        assert {values.shape for values in metrics.values()} == {(3,)}
        assert np.isfinite(metrics["loss"]).all()


def test_images_and_time_of_training_are_counted(trained):
    _, throughput = trained
    assert throughput.images == 4 * 48
    assert throughput.images_per_second() == pytest.approx(192 / throughput.seconds)
    assert loop.Throughput().images_per_second() == 0


def test_compiling_does_not_count(monkeypatch):
    now = iter([0.0, 1.0, 101.0, 103.0, 105.0])
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(now))
    throughput = loop.Throughput()
    dispatch = throughput.sparing_the_first(lambda state, *inputs: (state, inputs))
    with throughput.counting():  # from 0 to 105, the first call from 1 to 101
        assert dispatch(1, 2, 3) == (1, (2, 3))
        assert dispatch(4) == (4, ())
    assert throughput.seconds == 5.0


def test_going_on_from_an_epoch_gives_the_same_bits(started, trained):
    run, _ = started
    epochs, _ = trained
    resumed = train(run, epochs[1][1])
    assert [epoch for epoch, _, _ in resumed] == [3, 4]
    for (_, state, metrics), (_, again, values) in zip(
        epochs[2:], resumed, strict=True
    ):
        assert_trees_equal(again, state)
        assert_trees_equal(values, metrics)


def test_several_steps_a_dispatch_are_the_same_steps(started, trained):
    run, _ = started
    epochs, _ = trained
    three = run.replace(steps_per_dispatch=3)
    ((_, state, metrics),) = train(three, epochs[2][1])
    _, expected, values = epochs[-1]
    assert_trees_close(metrics, values, rtol=1e-4, atol=1e-5)
    assert_trees_close(state, expected, rtol=1e-3, atol=1e-4)


def test_an_epoch_trains_on_the_rows_of_its_order(started):
    run, state = started
    seen = []

    def note(state, images, order):
        seen.append(order)
        return state, {"loss": jnp.zeros(len(order))}

    noting = copy.copy(run)
    noting.dispatch = lambda *_: note
    epochs = fit.train_epochs(noting, state, run.feeds(), loop.Throughput())
    assert len(list(epochs)) == 4
    for epoch in range(4):
        expected = jax.random.permutation(jax.random.fold_in(run.keys.order, epoch), 48)
        np.testing.assert_array_equal(
            np.concatenate(seen[3 * epoch : 3 * epoch + 3]).ravel(), expected
        )
