"""CaCo's payoff over a linear encoder, against loops; the count of the bank's use."""

import dataclasses
import functools
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


def play(views, *, method=METHOD, **changes):
    inputs = {"bank": BANK, "online": ONLINE, "target": TARGET, **changes}
    return Play(method, views, **inputs)


def other(**settings):
    return make(dataclasses.replace(CONFIG, **settings), embedding_dim=DIM)


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


def bank_step(query_view, key_view, *, roles="both", moved_by="queries", labels=None):
    """mean_n c_nj (q_n - (q_n . w_j) w_j) / (T |W_j|), c = 1 - p or p, in loops."""
    step = np.zeros_like(BANK)
    rows, lengths = unit(BANK), np.linalg.norm(BANK, axis=1, keepdims=True)
    queries, keys = unit(query_view @ ONLINE), unit(key_view @ TARGET)
    labels = positives(key_view) if labels is None else labels
    movers = queries if moved_by == "queries" else keys
    for query, mover, label in zip(queries, movers, labels, strict=True):
        scores = np.exp(rows @ query / CONFIG.bank_temperature)
        share = scores / scores.sum()
        share[label] = 1 - share[label]
        if roles == "positives":
            share[np.arange(6) != label] = 0
        if roles == "negatives":
            share[label] = 0
        across = mover - (rows @ mover)[:, None] * rows
        step += share[:, None] * across / (4 * CONFIG.bank_temperature * lengths)
    return step


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bank_roles": "positives"},
        {"bank_roles": "negatives"},
        {"bank_moved_by": "keys"},
    ],
)
@pytest.mark.parametrize("num_views", [2, 4])
def test_the_bank_moves_toward_queries_at_its_own_temperature(settings, num_views):
    how = {name.removeprefix("bank_"): value for name, value in settings.items()}
    views = VIEWS[:num_views]
    step = functools.partial(bank_step, **how)
    large = step(views[0], views[1]) + step(views[1], views[0])
    small = [step(query, key) for query in views[2:] for key in views[:2]]
    expected = large / 2 + np.mean(small, axis=0) if small else large
    found = play(views, method=other(**settings))
    np.testing.assert_allclose(found.gradients["bank"], expected, rtol=1e-4, atol=1e-6)
    # The encoder's part of the game is the same.
    usual = play(views)
    np.testing.assert_allclose(found.loss, usual.loss, rtol=1e-6)
    encoder = found.gradients["encoder"], usual.gradients["encoder"]
    np.testing.assert_allclose(*encoder, rtol=1e-4, atol=1e-6)


def test_random_positives_are_drawn_anew_at_every_step():
    method, views = other(positive="random", bank_size=60), VIEWS
    bank = draw(7, 60, DIM)
    _, extra = method.init(jax.random.key(3))
    chosen = []
    for _ in range(3):
        found = play(views, method=method, bank=bank, extra=extra)
        again = play(views, method=method, bank=bank, extra=extra)
        assert float(found.loss) == float(again.loss)
        _, extra = found.advanced
        chosen.append(set(np.flatnonzero(extra["bank_ages"] == 0)))
    # Eight draws of sixty, of a step and of the next: most are others.
    assert all(4 <= len(entries) <= 8 for entries in chosen)
    assert len(set.union(*chosen)) > 12
    nearest = {*positives(views[0], bank), *positives(views[1], bank)}
    assert chosen[0] != nearest
    _, other_seed = method.init(jax.random.key(4))
    assert int(other_seed["positive_draw"]) != int(extra["positive_draw"])
    assert "positive_draw" not in METHOD.init(jax.random.key(3))[1]


def test_random_positives_are_the_labels_of_both_players():
    method, (a, b) = other(positive="random"), VIEWS[:2]
    _, extra = method.init(jax.random.key(3))
    of_draw = jax.random.fold_in(jax.random.key(0), extra["positive_draw"])
    labels = np.asarray(jax.random.randint(of_draw, (8,), 0, 6)).reshape(4, 2)
    found = play([a, b], method=method, extra=extra)
    step = bank_step(a, b, labels=labels[:, 1]) + bank_step(b, a, labels=labels[:, 0])
    np.testing.assert_allclose(found.gradients["bank"], step, rtol=1e-4, atol=1e-6)
    scores = [
        unit(view @ ONLINE) @ unit(BANK).T / CONFIG.temperature for view in (a, b)
    ]
    want = cross_entropy(scores[0], labels[:, 1]) + cross_entropy(
        scores[1], labels[:, 0]
    )
    np.testing.assert_allclose(found.loss, want, rtol=1e-5)


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


@pytest.mark.parametrize("num_views", [2, 4])
def test_a_pass_for_each_view_has_statistics_of_its_own(num_views):
    views = VIEWS[:num_views]
    found = play(views, method=other(pass_per_view=True))
    alone = [view.mean() for view in views]
    np.testing.assert_allclose(found.outcome.stats, alone, rtol=1e-5)
    np.testing.assert_allclose(found.outcome.target.stats, alone[:2], rtol=1e-5)
    # Embeddings of this encoder do not depend on who shares the pass.
    np.testing.assert_allclose(found.loss, play(views).loss, rtol=1e-6)


def test_views_of_one_size_share_a_pass_unless_told_otherwise():
    outcome = play(VIEWS).outcome
    np.testing.assert_allclose(outcome.stats, [np.mean(VIEWS)], rtol=1e-4)
    np.testing.assert_allclose(outcome.target.stats, [np.mean(VIEWS[:2])], rtol=1e-4)


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


@pytest.mark.parametrize("num_views", [2, 4])
def test_start_up_fills_the_bank_from_the_large_views_alone(num_views):
    phase, (a, b) = METHOD.start_up, VIEWS[:2]
    found = play(VIEWS[:num_views], method=phase.method)
    keys, queries = unit(b @ TARGET), unit(a @ ONLINE)
    np.testing.assert_allclose(found.outcome.arrays["keys"], keys, rtol=1e-5)
    np.testing.assert_allclose(found.advanced[0]["bank"][:4], keys, rtol=1e-5)
    own = np.sum(queries * keys, axis=1, keepdims=True)
    scores = np.concatenate([own, queries @ unit(BANK).T], axis=1)
    want = cross_entropy(scores / CONFIG.start_up_temperature, [0] * 4)
    np.testing.assert_allclose(found.loss, want, rtol=1e-5)
    both = [a.mean(), b.mean()]
    np.testing.assert_allclose(found.outcome.stats, both, rtol=1e-5)
    np.testing.assert_allclose(found.outcome.target.stats, both, rtol=1e-5)


def test_start_up_follows_the_settings():
    config = dataclasses.replace(CONFIG, start_up_momentum=0.25, start_up_epochs=2)
    phase = make(config, embedding_dim=DIM).start_up
    assert (phase.examples, phase.epochs, phase.target_momentum) == (6, 2, 0.25)
    assert METHOD.start_up.target_momentum == 0.999


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"bank_size": 1}, "bank_size: expected a number in [2, inf), got 1"),
        ({"temperature": 0.0}, "temperature: expected a number in (0, inf), got 0.0"),
        (
            {"bank_temperature": -1},
            "bank_temperature: expected a number in (0, inf), got -1.0",
        ),
        (
            {"start_up_momentum": 1.5},
            "start_up_momentum: expected a number in [0, 1], got 1.5",
        ),
        ({"positive": "own"}, "positive: expected one of nearest, random, got 'own'"),
        (
            {"bank_roles": "none"},
            "bank_roles: expected one of both, positives, negatives, got 'none'",
        ),
        (
            {"bank_moved_by": ""},
            "bank_moved_by: expected one of queries, keys, got ''",
        ),
        ({"pass_per_view": 2}, "pass_per_view: expected bool, got 2"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError) as caught:
        CacoConfig(**changes)
    assert str(caught.value) == message
