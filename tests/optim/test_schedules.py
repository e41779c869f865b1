"""The schedules against the papers' arithmetic, epoch by epoch in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caco_jax.optim import schedules


def _values(schedule, steps):
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps)))


def _half_wave(initial, final, epoch, epochs):
    return final + (initial - final) * (1 + math.cos(math.pi * epoch / epochs)) / 2


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("warmup", [0, 1, 4, 10])
def test_warmup_cosine(warmup, double):
    want = [
        1.2 * (e + 1) / warmup
        if e < warmup
        else _half_wave(1.2, 0.01, e - warmup, 10 - warmup)
        for e in range(10)
    ]
    with jax.enable_x64(double):
        made = schedules.warmup_cosine(1.2, 0.01, warmup_epochs=warmup, epochs=10)
        got = _values(made, 10)
    assert got.dtype == (np.float64 if double else np.float32)
    np.testing.assert_allclose(got, want, rtol=1e-14 if double else 1e-6)


def test_full_rate_in_the_last_warm_epoch_and_in_the_first_after_it():
    got = _values(schedules.warmup_cosine(2.0, 0.5, warmup_epochs=3, epochs=9), 12)
    assert np.flatnonzero(got == 2.0).tolist() == [2, 3]
    assert (got[9:] == 0.5).all() and (got[:9] > 0.5).all()


def test_equal_ends_are_constant_after_the_warm_up():
    got = _values(schedules.warmup_cosine(3.0, 3.0, warmup_epochs=2, epochs=6), 8)
    np.testing.assert_allclose(got, [1.5] + [3.0] * 7, rtol=1e-6)


def test_values_hold_for_an_epoch_of_steps():
    by_epoch = schedules.cosine(1.0, 0.1, epochs=4)
    by_step = schedules.cosine(1.0, 0.1, epochs=4, steps_per_epoch=3)
    np.testing.assert_array_equal(
        _values(by_step, 12), np.repeat(_values(by_epoch, 4), 3)
    )


def test_cosines_of_adco_and_momentum():
    e = np.arange(7)
    np.testing.assert_allclose(
        _values(schedules.half_cosine(0.03, epochs=7), 7),
        0.03 * np.cos(np.pi * e / 14),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        _values(schedules.cosine_momentum(0.99, epochs=7), 8)[:7],
        [1 - 0.01 * (1 + math.cos(math.pi * i / 7)) / 2 for i in range(7)],
        rtol=1e-7,
    )
    assert schedules.cosine_momentum(0.99, epochs=7)(7) == 1
    assert schedules.half_cosine(0.03, epochs=7)(70) == pytest.approx(0, abs=1e-8)


def test_step_tables():
    clae = schedules.step_table(0.03, {160: 0.05, 120: 0.1, 200: 0.01})
    epochs = jnp.asarray([0, 119, 120, 159, 160, 199, 200, 300])
    want = 0.03 * np.asarray([1, 1, 0.1, 0.1, 0.05, 0.05, 0.01, 0.01])
    np.testing.assert_allclose(jax.vmap(clae)(epochs), want, rtol=1e-6)
    decay = schedules.step_decay(0.2, milestones=[3, 5], steps_per_epoch=2)
    want = np.repeat([0.2, 0.2, 0.2, 0.02, 0.02, 0.002, 0.002], 2)
    np.testing.assert_allclose(_values(decay, 14), want, rtol=1e-6)
    np.testing.assert_allclose(_values(schedules.step_table(0.5, {}), 3), 0.5)


def test_linear_rule():
    assert schedules.linear_scaled_rate(0.3, batch_size=1024) == pytest.approx(1.2)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 10), st.floats(0, 10), st.integers(0, 5), st.integers(1, 20))
def test_rates_stay_between_their_ends(peak, final, warmup, more):
    epochs = warmup + more
    made = schedules.warmup_cosine(peak, final, warmup_epochs=warmup, epochs=epochs)
    got = np.asarray(made(jnp.arange(30)))  # one shape: the operations compile once
    room = 1e-6 * max(peak, final)
    assert (got[warmup:] >= min(peak, final) - room).all()
    assert (got <= max(peak, final) + room).all()
    assert (np.diff(got[:warmup]) >= 0).all()


def test_optax_takes_them():
    tx = optax.sgd(schedules.step_decay(1.0, milestones=[1]))
    param = jnp.zeros(())
    state = tx.init(param)
    for want in (-1.0, -0.1, -0.1):
        update, state = tx.update(jnp.ones(()), state)
        np.testing.assert_allclose(update, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.cosine(-1, 0, epochs=3), "peak: .*got -1"),
        (lambda: schedules.cosine(1, math.nan, epochs=3), "final: .*got nan"),
        (lambda: schedules.cosine(1, 0, epochs=0), "epochs: .*got 0"),
        (
            lambda: schedules.cosine(1, 0, epochs=3, steps_per_epoch=0),
            "steps_per_epoch: .*got 0",
        ),
        (
            lambda: schedules.warmup_cosine(1, 0, warmup_epochs=4, epochs=3),
            r"warmup_epochs: expected at most epochs \(3\), got 4",
        ),
        (
            lambda: schedules.warmup_cosine(1, 0, warmup_epochs=1.5, epochs=3),
            r"warmup_epochs: .*got 1\.5",
        ),
        (lambda: schedules.half_cosine(math.inf, epochs=3), "initial: .*got inf"),
        (lambda: schedules.cosine_momentum(1.1, epochs=3), r"\[0, 1\], got 1\.1"),
        (lambda: schedules.step_table(1, {0: 0.1}), "milestone 0: .*got 0"),
        (lambda: schedules.step_table(1, {3: -0.1}), r"factors\[3\]: .*got -0\.1"),
        (lambda: schedules.step_decay(1, milestones=[2, 2]), "milestones: .*2, 2"),
        (
            lambda: schedules.linear_scaled_rate(0.3, batch_size=0),
            "batch_size: .*got 0",
        ),
    ],
)
def test_bad_schedules(make, message):
    with pytest.raises(ValueError, match=message):
        make()
