"""What is measured of a run's bank at an epoch's end."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from caco_jax.data.view_kinds import PhotoView, Views
from caco_jax.evaluation.bank_health import chance_cosine
from caco_jax.runs.telemetry import BankTelemetry
from tests.runs import tiny

OF_STATE = {
    *("bank_row_length", "bank_directions", "bank_cosine", "bank_chance_cosine"),
    *("bank_effective_rows", "bank_dead_share", "bank_turn_degrees"),
}


def begun(run, *, trace=0.0):
    """The run's first state, as if its bank's momentum were so many times the bank."""
    state = run.initial_state()
    inner = state.opt_state.inner_states["bank"]
    moved = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            trace * state.players["bank"][:, ::-1]
            if leaf.shape == state.players["bank"].shape
            else leaf
        ),
        inner,
    )
    inner_states = {**state.opt_state.inner_states, "bank": moved}
    opt_state = state.opt_state._replace(inner_states=inner_states)
    return run.place(state._replace(opt_state=opt_state))


@pytest.mark.parametrize("method", tiny.METHODS)
def test_every_figure_of_a_bank_is_found_and_the_state_is_as_it_was(method):
    run = tiny.run(method)
    state = begun(run)
    before = jax.device_get(state)
    found = BankTelemetry(run).row(state, {"loss": 1.0})
    assert found.keys() == OF_STATE
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), before)
    bank = np.asarray(state.players["bank"])
    length = np.median(np.linalg.norm(bank, axis=1))
    assert found["bank_row_length"] == pytest.approx(length, rel=1e-6)
    assert found["bank_chance_cosine"] == chance_cosine(*bank.shape)
    assert found["bank_turn_degrees"] < 1e-6  # there is no momentum yet


def test_eight_devices_find_what_one_finds():
    one, many = (
        BankTelemetry(run).row(begun(run, trace=0.1), {})
        for run in (tiny.run("adco"), tiny.run("adco", devices=8))
    )
    assert many == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("devices", [1, 8])
def test_the_turn_is_that_of_the_momentum_left(devices):
    run = tiny.run("adco", devices=devices)
    state = begun(run, trace=0.1)
    bank = np.asarray(state.players["bank"])
    # Heavy ball with decay: v = 0.9 v + 1e-4 W, then W - 3 v.
    after = bank - 3 * (0.9 * 0.1 * bank[:, ::-1] + 1e-4 * bank)
    lengths = np.linalg.norm(bank, axis=1) * np.linalg.norm(after, axis=1)
    turns = np.degrees(np.arccos((bank * after).sum(axis=1) / lengths))
    found = BankTelemetry(run).row(state, {})
    assert found["bank_turn_degrees"] == pytest.approx(np.median(turns), rel=1e-4)


def test_the_mass_is_what_is_not_on_the_batch():
    run = tiny.run("adco")
    found = BankTelemetry(run).row(begun(run), {"batch_probability": 0.98})
    assert found["bank_mass"] == pytest.approx(0.02)


@pytest.mark.parametrize("method", ["moco", "simclr"])
def test_a_queue_is_no_player_and_nothing_is_measured(method):
    run = tiny.run(method)
    assert BankTelemetry(run).row(run.initial_state(), {}) == {}


def test_any_optimizer_of_the_bank_will_do():
    run = tiny.run("caco").replace(optimizers={"bank": optax.adam(0.1)})
    found = BankTelemetry(run).row(run.place(run.initial_state()), {})
    assert found.keys() == OF_STATE


def test_the_encoder_sees_what_training_shows_it_and_a_streamed_set_will_do():
    # Its first layer takes views of 12 pixels and not the examples of 8.
    names = ("flip_probability", "jitter_probability", "gray_probability")
    view = PhotoView(12, **dict.fromkeys([*names, "blur_probability"], 0.0))
    kept = tiny.run("caco").replace(views=Views((view, view)))
    coloured = np.repeat(kept.data.train_examples, 3, axis=3)
    kept = kept.replace(data=coloured)
    streamed = dataclasses.replace(kept.data.as_records(), workers=0)
    for run in (kept, kept.replace(data=streamed)):
        state = run.place(run.initial_state())
        found = BankTelemetry(run).row(state, {})
        assert found.keys() == OF_STATE
        assert 0 < found["bank_cosine"] <= 1
