"""CaCo's payoff over a linear encoder, against loops; the count of the bank's use."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.methods import bank_use
from caco_jax.methods.caco import CacoConfig, make
from caco_jax.schema import ConfigError
from tests.methods.linear import DIM, Play, cross_entropy, draw, unit

CONFIG = CacoConfig(bank_size=6, temperature=0.5, bank_temperature=0.25)
METHOD = make(CONFIG, embedding_dim=DIM)
BANK = draw(0, 6, DIM)
ONLINE, TARGET = draw(1, DIM, DIM), draw(2, DIM, DIM)
VIEWS = [draw(10 + v, 4, DIM) for v in range(4)]


def play(views, **changes):
    inputs = {"bank": BANK, "online": ONLINE, "target": TARGET, **changes}
    return Play(METHOD, views, **inputs)


def positives(view, bank=BANK):
    return np.argmax(unit(view @ TARGET) @ unit(bank).T, axis=1)


def pair_loss(query_view, key_view):
    logits = unit(query_view @ ONLINE) @ unit(BANK).T / CONFIG.temperature
    return cross_entropy(logits, positives(key_view))


def test_two_views_sum_both_directions():
    a, b = VIEWS[:2]
    both = pair_loss(a, b) + pair_loss(b, a)
    found = play([a, b])
    np.testing.assert_allclose(found.loss, both, rtol=1e-5)
    np.testing.assert_allclose(found.metrics["cross_entropy"], both / 2, rtol=1e-5)
    np.testing.assert_allclose(play([b, a]).loss, both, rtol=1e-5)


def test_small_crops_count_once_as_a_group():
    a, b, c, d = VIEWS
    large = np.mean([pair_loss(a, b), pair_loss(b, a)])
    small = np.mean([pair_loss(q, k) for q in (c, d) for k in (a, b)])
    found = play([a, b, c, d])
    np.testing.assert_allclose(found.loss, large + small, rtol=1e-5)
    np.testing.assert_allclose(found.metrics["cross_entropy"], large, rtol=1e-5)


def test_where_all_entries_are_alike_every_label_is_a_guess():
    found = play(VIEWS[:2], bank=np.ones((6, DIM), np.float32))
    np.testing.assert_allclose(found.loss, 2 * math.log(6), rtol=1e-5)
    chance = math.log(METHOD.candidates(len(VIEWS[0])))
    assert chance == pytest.approx(found.metrics["cross_entropy"])


def test_the_bank_moves_toward_queries_at_its_own_temperature():
    # step_j = mean_n c_nj (q_n - (q_n . w_j) w_j) / (T |W_j|), c = 1 - p or p.
    a, b = VIEWS[:2]
    expected = np.zeros_like(BANK)
    rows, lengths = unit(BANK), np.linalg.norm(BANK, axis=1)
    for query_view, key_view in ((a, b), (b, a)):
        queries, labels = unit(query_view @ ONLINE), positives(key_view)
        for query, label in zip(queries, labels, strict=True):
            scores = np.exp(rows @ query / CONFIG.bank_temperature)
            share = scores / scores.sum()
            share[label] = 1 - share[label]
            across = query - (rows @ query)[:, None] * rows
            expected += (
                share[:, None]
                * across
                / (4 * CONFIG.bank_temperature * lengths[:, None])
            )
    found = play([a, b]).gradients["bank"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_encoder_descends_with_the_bank_held_still():
    a, b = VIEWS[:2]
    labels = positives(b), positives(a)

    def loss(online):
        total = 0.0
        for view, label in zip((a, b), labels, strict=True):
            queries = view @ online
            queries /= jnp.linalg.norm(queries, axis=1, keepdims=True)
            logits = queries @ unit(BANK).T / CONFIG.temperature
            at_label = jnp.take_along_axis(logits, label[:, None], axis=1)[:, 0]
            total += jnp.mean(jax.nn.logsumexp(logits, axis=1) - at_label)
        return total

    expected = jax.jit(jax.grad(loss))(ONLINE)
    found = play([a, b]).gradients["encoder"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_each_network_keeps_statistics_of_what_it_saw():
    a, b, c, _ = VIEWS
    found = play([a, b])
    np.testing.assert_allclose(found.outcome.stats, [a.mean(), b.mean()], rtol=1e-5)
    target = found.outcome.target
    np.testing.assert_array_equal(target.params, TARGET)
    np.testing.assert_allclose(target.stats, [a.mean(), b.mean()], rtol=1e-5)
    # A small crop is a query only: the target encoder never sees it.
    small = c[:, :DIM]
    target = play([a, b, small]).outcome.target
    np.testing.assert_allclose(np.sum(target.stats), np.mean([a, b]), rtol=1e-4)


def test_every_chosen_entry_is_new_and_all_others_grow_older():
    a, b = VIEWS[:2]
    chosen = {*positives(a), *positives(b)}
    assert 0 < len(chosen) < 6
    ages = jnp.asarray([0, 5, bank_use.NEVER, 99, 98, bank_use.NEVER], jnp.int32)
    found = play([a, b], extra={"bank_ages": ages})
    expected = [
        0 if j in chosen else min(int(age) + 1, bank_use.NEVER)
        for j, age in enumerate(ages)
    ]
    _, extra = found.advanced
    np.testing.assert_array_equal(extra["bank_ages"], expected)
    assert extra["bank_ages"].dtype == jnp.int32
    share = np.mean([age < bank_use.NEVER for age in expected])
    assert float(found.metrics["bank_used_ever"]) == pytest.approx(share)
    share = np.mean([age < 100 for age in expected])
    assert float(found.metrics["bank_used_recently"]) == pytest.approx(share)


def test_what_follows_a_step_leaves_the_players_and_other_state_alone():
    extra = {"bank_ages": bank_use.new_bank_ages(6), "other": jnp.ones(2)}
    found = play(VIEWS[:2], extra=extra)
    players, after = found.advanced
    assert players is found.players
    assert after["other"] is extra["other"]


def test_use_is_counted_from_nothing_and_never_overflows():
    ages = bank_use.new_bank_ages(3)
    metrics = bank_use.bank_use_metrics(ages)
    assert {name: float(share) for name, share in metrics.items()} == {
        "bank_used_ever": 0,
        "bank_used_recently": 0,
    }
    ages = bank_use.refresh_ages(ages, jnp.asarray([2, 2, 2]))
    np.testing.assert_array_equal(ages, [bank_use.NEVER, bank_use.NEVER, 0])
    almost = jnp.asarray([bank_use.NEVER - 1], jnp.int32)
    for _ in range(2):
        almost = bank_use.refresh_ages(almost, jnp.zeros(0, jnp.int32))
    assert int(almost[0]) == bank_use.NEVER


def test_the_bank_begins_with_random_rows_of_the_embeddings_width():
    players, extra = METHOD.init(jax.random.key(0))
    others, _ = METHOD.init(jax.random.key(1))
    assert players["bank"].shape == (6, DIM)
    assert not np.array_equal(players["bank"], others["bank"])
    assert len(np.unique(players["bank"])) == 6 * DIM
    np.testing.assert_array_equal(extra["bank_ages"], [bank_use.NEVER] * 6)


def test_the_method_describes_itself():
    assert METHOD.name == "caco"
    assert METHOD.moves == {"encoder": "descend", "bank": "ascend"}
    assert METHOD.uses_target
    large = make(CacoConfig(), embedding_dim=2)
    assert "65,536 learnable entries" in large.description


def test_start_up_follows_the_settings():
    config = dataclasses.replace(CONFIG, start_up_momentum=0.25, start_up_epochs=2)
    phase = make(config, embedding_dim=DIM).start_up
    assert (phase.examples, phase.epochs, phase.target_momentum) == (6, 2, 0.25)
    assert METHOD.start_up.target_momentum == 0.999


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"bank_size": 1}, "bank_size: want a number in [2, inf), got 1"),
        ({"temperature": 0.0}, "temperature: want a number in (0, inf), got 0.0"),
        (
            {"bank_temperature": -1},
            "bank_temperature: want a number in (0, inf), got -1.0",
        ),
        (
            {"start_up_momentum": 1.5},
            "start_up_momentum: want a number in [0, 1], got 1.5",
        ),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError) as caught:
        CacoConfig(**changes)
    assert str(caught.value) == message
