"""The phase that fills a bank: its loss, which rows it writes, who holds still."""

import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.methods.start_up import fill_bank
from tests.methods.linear import DIM, Play, cross_entropy, draw, unit

BANK = draw(0, 10, DIM)
ONLINE, TARGET = draw(1, DIM, DIM), draw(2, DIM, DIM)
A, B = draw(10, 4, DIM), draw(11, 4, DIM)
PHASE = fill_bank(bank_size=10, temperature=0.5)


def play(phase=PHASE, **changes):
    inputs = {"bank": BANK, "online": ONLINE, "target": TARGET, **changes}
    return Play(phase.method, [A, B], **inputs)


def test_the_loss_is_info_nce_with_the_bank_as_negatives():
    queries, keys = unit(A @ ONLINE), unit(B @ TARGET)
    positive = np.sum(queries * keys, axis=1, keepdims=True)
    logits = np.concatenate([positive, queries @ unit(BANK).T], axis=1) / 0.5
    expected = cross_entropy(logits, [0] * 4)
    np.testing.assert_allclose(play().loss, expected, rtol=1e-5)


def test_the_bank_holds_still_and_gets_no_gradient():
    assert PHASE.method.moves == {"encoder": "descend", "bank": "hold"}
    gradients = play().gradients
    np.testing.assert_array_equal(gradients["bank"], 0)
    assert np.abs(gradients["encoder"]).max() > 1e-3


def test_keys_fill_the_rows_in_turn_and_the_last_batch_is_cut():
    keys = unit(B @ TARGET)
    _, extra = PHASE.method.init(None)
    bank = BANK
    for first in (0, 4, 8):
        (players, extra) = play(bank=bank, extra=extra).advanced
        expected = np.array(bank)
        expected[first : first + 4] = keys[: 10 - first]
        np.testing.assert_allclose(players["bank"], expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(players["encoder"], ONLINE)
        bank = players["bank"]
    # Then from the first row again.
    (players, _) = play(bank=np.zeros_like(BANK), extra=extra).advanced
    np.testing.assert_allclose(players["bank"][:4], keys, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(players["bank"][4:], 0)


def test_a_batch_may_be_larger_than_the_bank():
    phase = fill_bank(bank_size=3, temperature=0.5)
    found = play(phase, bank=BANK[:3])
    keys = unit(B @ TARGET)
    np.testing.assert_allclose(
        found.advanced[0]["bank"], keys[:3], rtol=1e-6, atol=1e-7
    )


def test_a_bank_that_fits_exactly_begins_anew_at_row_zero():
    phase = fill_bank(bank_size=4, temperature=0.5)
    _, extra = play(phase, bank=BANK[:4]).advanced
    (next_row,) = extra.values()
    assert int(next_row) == 0
    assert next_row.dtype == jnp.int32


@pytest.mark.parametrize(
    "slices, online, target",
    [
        ({}, [A, B], [A, B]),
        ({"query_views": slice(None, -1), "key_views": slice(-1, None)}, [A], [B]),
    ],
)
def test_each_network_sees_the_views_it_is_told_to(slices, online, target):
    phase = fill_bank(bank_size=10, temperature=0.5, **slices)
    outcome = play(phase).outcome
    np.testing.assert_allclose(outcome.stats, [v.mean() for v in online], rtol=1e-5)
    found = outcome.target.stats
    np.testing.assert_allclose(found, [v.mean() for v in target], rtol=1e-5)


def test_the_phase_lasts_until_the_bank_is_full_unless_told_otherwise():
    assert (PHASE.examples, PHASE.epochs, PHASE.target_momentum) == (10, 0, None)
    phase = fill_bank(bank_size=4, temperature=1.0, target_momentum=0.9, epochs=3)
    assert (phase.examples, phase.epochs, phase.target_momentum) == (4, 3, 0.9)
