"""AdCo's payoff over a linear encoder, against loops."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax import methods
from caco_jax.methods.adco import AdcoConfig, weighted_pairs
from caco_jax.schema import ConfigError
from tests.methods.linear import DIM, Play, cross_entropy, draw, unit

CONFIG = AdcoConfig(bank_size=6, temperature=0.5, bank_temperature=0.25)
BANK = draw(0, 6, DIM)
ONLINE, TARGET = draw(1, DIM, DIM), draw(2, DIM, DIM)
VIEWS = [draw(10 + v, 4, DIM) for v in range(4)]


@functools.cache
def make(**changes):
    return methods.adco(**{**dataclasses.asdict(CONFIG), **changes})(DIM)


def play(views, *, symmetric=False, **changes):
    inputs = {"bank": BANK, "online": ONLINE, "target": TARGET, **changes}
    return Play(make(symmetric=symmetric), views, **inputs)


def logits(query_view, key_view, temperature):
    queries = unit(query_view @ ONLINE)
    candidates = np.concatenate([unit(key_view @ TARGET), unit(BANK)])
    return queries @ candidates.T / temperature


def pair_loss(query_view, key_view):
    return cross_entropy(logits(query_view, key_view, CONFIG.temperature), range(4))


@pytest.mark.parametrize(
    "num_views, symmetric, expected",
    [
        (2, False, [(1.0, (0, 1))]),
        (2, True, [(0.5, (0, 1)), (0.5, (1, 0))]),
        (4, False, [(1.0, (1, 0)), (1.0, (2, 0)), (1.0, (3, 0))]),
        (3, True, [(0.5, (0, 1)), (0.5, (1, 0)), (0.5, (2, 0)), (0.5, (2, 1))]),
    ],
)
def test_the_pairs_of_views_and_their_weights(num_views, symmetric, expected):
    assert weighted_pairs(num_views, symmetric=symmetric) == expected


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("num_views", [2, 4])
def test_the_loss_is_the_weighted_sum_over_pairs(num_views, symmetric):
    views = VIEWS[:num_views]
    pairs = weighted_pairs(num_views, symmetric=symmetric)
    expected = sum(weight * pair_loss(views[q], views[k]) for weight, (q, k) in pairs)
    found = play(views, symmetric=symmetric)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    query, key = pairs[0][1]
    first = pair_loss(views[query], views[key])
    np.testing.assert_allclose(found.metrics["cross_entropy"], first, rtol=1e-5)


def test_where_all_candidates_are_alike_every_label_is_a_guess():
    same = np.ones((4, DIM), np.float32)
    eye = np.eye(DIM, dtype=np.float32)
    bank = np.ones((6, DIM), np.float32)
    found = play([same, same], bank=bank, online=eye, target=eye)
    np.testing.assert_allclose(found.loss, math.log(4 + 6), rtol=1e-5)
    np.testing.assert_allclose(found.metrics["batch_probability"], 0.4, rtol=1e-5)
    np.testing.assert_allclose(found.metrics["embedding_std"], 0, atol=1e-6)


def test_the_bank_ascends_the_loss_at_its_own_temperature():
    a, b = VIEWS[:2]
    keys, queries = unit(b @ TARGET), unit(a @ ONLINE)

    def loss(bank):
        rows = bank / jnp.linalg.norm(bank, axis=1, keepdims=True)
        scores = queries @ jnp.concatenate([keys, rows]).T / CONFIG.bank_temperature
        return jnp.mean(jax.nn.logsumexp(scores, axis=1) - jnp.diagonal(scores))

    found = play([a, b])
    np.testing.assert_allclose(
        found.gradients["bank"], jax.jit(jax.grad(loss))(BANK), rtol=1e-4, atol=1e-6
    )
    # A step along it makes the queries' task harder.
    harder = play([a, b], bank=BANK + 0.01 * np.asarray(found.gradients["bank"]))
    assert float(harder.loss) > float(found.loss)


def test_without_the_batchs_keys_a_query_meets_its_own_and_the_bank():
    a, b = VIEWS[:2]
    queries, keys = unit(a @ ONLINE), unit(b @ TARGET)
    own = np.sum(queries * keys, axis=1, keepdims=True)
    scores = np.concatenate([own, queries @ unit(BANK).T], axis=1)
    method = make(batch_keys=False)
    inputs = {"bank": BANK, "online": ONLINE, "target": TARGET}
    found = Play(method, [a, b], **inputs)
    want = cross_entropy(scores / CONFIG.temperature, [0] * 4)
    np.testing.assert_allclose(found.loss, want, rtol=1e-5)
    assert method.candidates(4) == 1 + 6


def test_the_bank_may_move_toward_keys():
    a, b = VIEWS[:2]
    keys, rows = unit(b @ TARGET), unit(BANK)
    scores = logits(a, b, CONFIG.bank_temperature)
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    pull = p[:, 4:].T @ keys
    across = pull - np.sum(pull * rows, axis=1, keepdims=True) * rows
    lengths = np.linalg.norm(BANK, axis=1, keepdims=True)
    want = across / (4 * CONFIG.bank_temperature * lengths)
    inputs = {"bank": BANK, "online": ONLINE, "target": TARGET}
    found = Play(make(bank_moved_by="keys"), [a, b], **inputs)
    np.testing.assert_allclose(found.gradients["bank"], want, rtol=1e-4, atol=1e-6)
    usual = play([a, b])
    assert float(found.loss) == float(usual.loss)
    encoder = found.gradients["encoder"], usual.gradients["encoder"]
    np.testing.assert_allclose(*encoder, rtol=1e-5, atol=1e-6)


def test_the_encoder_descends_with_keys_and_bank_held_still():
    a, b = VIEWS[:2]
    candidates = np.concatenate([unit(b @ TARGET), unit(BANK)])

    def loss(online):
        queries = a @ online
        queries /= jnp.linalg.norm(queries, axis=1, keepdims=True)
        scores = queries @ candidates.T / CONFIG.temperature
        return jnp.mean(jax.nn.logsumexp(scores, axis=1) - jnp.diagonal(scores))

    found = play([a, b]).gradients["encoder"]
    want = jax.jit(jax.grad(loss))(ONLINE)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "symmetric, seen", [(False, ([0], [1])), (True, ([0, 1],) * 2)]
)
def test_a_network_sees_no_view_that_it_need_not(symmetric, seen):
    outcome = play(VIEWS[:2], symmetric=symmetric).outcome
    online, target = ([VIEWS[i].mean() for i in views] for views in seen)
    np.testing.assert_allclose(outcome.stats, online, rtol=1e-5)
    np.testing.assert_allclose(outcome.target.stats, target, rtol=1e-5)
    np.testing.assert_array_equal(outcome.target.params, TARGET)


def test_nothing_follows_a_step():
    found = play(VIEWS[:2])
    players, extra = found.advanced
    assert players is found.players
    assert extra == {}


def test_the_bank_begins_with_random_rows_of_the_embeddings_width():
    players, extra = make(symmetric=False).init(jax.random.key(0))
    assert players["bank"].shape == (6, DIM)
    assert len(np.unique(players["bank"])) == 6 * DIM
    assert extra == {}


def test_the_method_describes_itself():
    method = make(symmetric=False)
    assert method.name == "adco"
    assert method.moves == {"encoder": "descend", "bank": "ascend"}
    assert method.uses_target
    assert "65,536" in methods.adco()(2).description


@pytest.mark.parametrize("num_views", [2, 4])
@pytest.mark.parametrize("symmetric", [False, True])
def test_start_up_fills_the_bank_with_the_last_views_keys(symmetric, num_views):
    # Of several crops, too; which see which encoder is as in the released code.
    phase = make(symmetric=symmetric).start_up
    assert (phase.examples, phase.target_momentum) == (6, None)
    views, every = VIEWS[:num_views], list(range(num_views))
    found = Play(phase.method, views, bank=BANK, online=ONLINE, target=TARGET)
    keys = unit(views[-1] @ TARGET)
    np.testing.assert_allclose(found.outcome.arrays["keys"], keys, rtol=1e-5)
    own = np.sum(unit(views[0] @ ONLINE) * keys, axis=1, keepdims=True)
    scores = np.concatenate([own, unit(views[0] @ ONLINE) @ unit(BANK).T], axis=1)
    want = cross_entropy(scores / CONFIG.temperature, [0] * 4)
    np.testing.assert_allclose(found.loss, want, rtol=1e-5)
    online, target = (every, every) if symmetric else (every[:-1], every[-1:])
    expected = [views[i].mean() for i in online]
    np.testing.assert_allclose(found.outcome.stats, expected, rtol=1e-5)
    expected = [views[i].mean() for i in target]
    np.testing.assert_allclose(found.outcome.target.stats, expected, rtol=1e-5)
    np.testing.assert_allclose(found.advanced[0]["bank"][:4], keys, rtol=1e-5)


def test_start_up_may_last_whole_epochs():
    assert make().start_up.epochs == 0
    assert make(start_up_epochs=3).start_up.epochs == 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"bank_size": 0}, "bank_size: expected a number in [2, inf), got 0"),
        ({"temperature": -0.1}, "temperature: expected a number in (0, inf), got -0.1"),
        ({"symmetric": 1}, "symmetric: expected bool, got 1"),
        ({"batch_keys": "no"}, "batch_keys: expected bool, got 'no'"),
        (
            {"bank_moved_by": "views"},
            "bank_moved_by: expected one of queries, keys, got 'views'",
        ),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError) as caught:
        AdcoConfig(**changes)
    assert str(caught.value) == message


def test_where_all_embeddings_are_alike_chance_is_a_guess_among_batch_and_bank():
    eye = np.eye(DIM, dtype=np.float32)
    same = {"bank": np.ones_like(BANK), "online": eye, "target": eye}
    found = play(np.ones_like(VIEWS[:2]), **same)
    np.testing.assert_allclose(
        found.metrics["cross_entropy"],
        np.log(make().candidates(len(VIEWS[0]))),
        rtol=1e-5,
    )
