"""A bank as pairs, its moves in two parts, its use, and the density of queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax import losses
from caco_jax.analysis import bank, bank_history
from caco_jax.analysis.bank_history import Moment
from caco_jax.analysis.snapshots import Memory

TAU = 0.3


def units(rng, *shape):
    rows = rng.standard_normal(shape)
    return jnp.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def case():
    """Queries, keys and a bank of raw rows, in double precision."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        queries, keys = units(rng, 9, 4), units(rng, 9, 4)
        yield queries, keys, jnp.asarray(2 * rng.standard_normal((7, 4)))


def test_cacos_move_is_its_two_parts(case):
    queries, keys, rows = case
    with jax.enable_x64(True):
        positives = losses.nearest_entries(keys, rows)
        moves = bank.bank_moves(queries, rows, temperature=TAU, positives=positives)
        want = jax.grad(
            lambda b: losses.caco_loss(queries, positives, b, temperature=TAU)[0]
        )(rows)
        p = bank.entry_probabilities(queries, rows, temperature=TAU)
    np.testing.assert_allclose(
        moves.cooperative.move + moves.adversarial.move, want, rtol=1e-9, atol=1e-14
    )
    for n, j in np.ndindex(p.shape):
        own = j == positives[n]
        assert moves.cooperative.weights[n, j] == (1 - p[n, j] if own else 0)
        assert moves.adversarial.weights[n, j] == (0 if own else p[n, j])
    # No entry helps that is no positive.
    helped = np.linalg.norm(moves.cooperative.move, axis=1) > 0
    np.testing.assert_array_equal(helped, np.isin(np.arange(7), positives))
    summary = bank.summarise_moves(moves)
    assert summary.entries == 7
    assert 1 < summary.effective_entries < 7
    assert summary.cooperative_norm == pytest.approx(
        np.linalg.norm(moves.cooperative.move)
    )


@pytest.mark.parametrize("batch_keys", [True, False])
def test_adcos_move_is_adversarial_alone(case, batch_keys):
    queries, keys, rows = case
    options = {"temperature": TAU, "batch_keys": batch_keys}
    with jax.enable_x64(True):
        moves = bank.bank_moves(queries, rows, keys=keys, **options)
        want = jax.grad(lambda b: losses.adco_loss(queries, keys, b, **options)[0])(
            rows
        )
    assert not np.any(moves.cooperative.weights)
    np.testing.assert_allclose(moves.adversarial.move, want, rtol=1e-9, atol=1e-14)
    assert bank.summarise_moves(moves).cooperative_norm == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0, "positives": 1}, "temperature"),
        ({"temperature": TAU}, "expected either keys .* or positives"),
        ({"temperature": TAU, "keys": 1, "positives": 1}, "expected either keys"),
    ],
)
def test_moves_refuse_what_is_no_game(case, options, message):
    queries, keys, rows = case
    values = {"keys": keys, "positives": jnp.zeros(9, jnp.int32)}
    options = {k: values.get(k, v) for k, v in options.items()}
    with pytest.raises(ValueError, match=message):
        bank.bank_moves(queries, rows, **options)


def test_tracking_and_use_by_hand():
    queries = jnp.asarray([[1.0, 0], [0.8, 0.6], [0, 1]])
    memory = jnp.asarray([[3.0, 0], [0, 2], [-1, 0]])
    found = bank.track(queries, memory)
    np.testing.assert_allclose(found.entries, [1, 1, 0], atol=1e-7)
    np.testing.assert_allclose(found.queries, [1, 0.8, 1])
    np.testing.assert_array_equal(found.uses, [2, 1, 0])
    turned = jnp.asarray([[0.0, 1], [0, 5], [1, 0]])
    np.testing.assert_allclose(bank.cosine_of_rows(memory, turned), [0, 1, -1])


def test_densities_equal_loops(case):
    queries, _, rows = case
    with jax.enable_x64(True):
        unit = losses.l2_normalize(rows)
        among = bank.kernel_density(queries, bandwidth=0.2)
        around = bank.kernel_density(queries, unit, bandwidth=0.2)
    for n, query in enumerate(np.asarray(queries)):
        others = [np.exp(query @ q / 0.2) for m, q in enumerate(queries) if m != n]
        assert among[n] == pytest.approx(np.log(np.mean(others)))
        kernels = [np.exp(query @ w / 0.2) for w in np.asarray(unit)]
        assert around[n] == pytest.approx(np.log(np.mean(kernels)))


def test_payoffs_differ_by_the_density_among_the_entries(case):
    """Bayes: p(w|q) / p(q|w) is p(w) / p(q), for every entry."""
    queries, _, rows = case
    with jax.enable_x64(True):
        posterior = bank.entry_probabilities(queries, rows, temperature=TAU)
        scores = queries @ losses.l2_normalize(rows).T / TAU
        likelihood = jax.nn.softmax(scores, axis=0)
        density = bank.kernel_density(queries, losses.l2_normalize(rows), bandwidth=TAU)
        ratio = np.log(posterior / likelihood) + np.asarray(density)[:, None]
        np.testing.assert_allclose(ratio - ratio[0], 0, atol=1e-12)
        weights = bank.query_weights(queries, rows, temperature=TAU)
    for weight in weights:
        assert weight.sum() == pytest.approx(1)
    # Without keys AdCo weighs every query the same.
    np.testing.assert_allclose(weights.posterior, 1 / 9)
    np.testing.assert_allclose(weights.likelihood, likelihood.sum(axis=1) / 7)


@pytest.fixture(scope="module")
def uneven():
    """Queries of uneven density, their keys, and a bank that follows them."""
    rng = np.random.default_rng(4)
    spread = np.concatenate([np.full(160, 0.15), np.full(96, 1.2)])
    rng.shuffle(spread)

    def draw():
        rows = np.eye(6)[0] + spread[:, None] * rng.standard_normal((256, 6))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    queries = draw()
    keys = queries + 0.05 * rng.standard_normal(queries.shape)
    arrays = (queries, keys / np.linalg.norm(keys, axis=1, keepdims=True), draw())
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def test_the_alternative_leans_to_dense_queries_and_adcos_payoff_hardly(uneven):
    found = bank_history.focus_on_density(*uneven, temperature=0.5, batch_size=64)
    assert set(found.correlations) == {"among queries", "among entries"}
    for density, by_payoff in found.correlations.items():
        assert by_payoff["p(q|w)"] > 0.9, density
        assert by_payoff["p(w|q)"] < by_payoff["p(q|w)"] - 0.3, density
        ratios = found.dense_over_sparse[density]
        assert ratios["p(q|w)"] > 1.5
        assert abs(ratios["p(w|q)"] - 1) < 0.1 * (ratios["p(q|w)"] - 1)
        for payoff, value in by_payoff.items():
            again = bank.rank_correlation(
                found.weights[payoff], found.densities[density]
            )
            assert value == pytest.approx(again)
    assert {len(w) for w in found.weights.values()} == {256}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.5, "batch_size": 257}, "a batch of 2 to 256, got 257"),
        ({"temperature": 0.5, "batch_size": 1}, "a batch of 2 to 256, got 1"),
        ({"temperature": 0.5, "batch_size": 64, "bandwidth": 0.0}, "bandwidth"),
        ({"temperature": -1.0, "batch_size": 64}, "temperature"),
    ],
)
def test_focus_refuses_numbers_that_make_no_sense(uneven, options, message):
    with pytest.raises(ValueError, match=message):
        bank_history.focus_on_density(*uneven, **options)


def test_a_density_needs_another_row():
    with pytest.raises(ValueError, match="at least two queries"):
        bank.kernel_density(jnp.ones((1, 1)), bandwidth=1.0)


def test_cosines_by_age_are_means():
    ages, means = bank_history.cosine_by_age(
        np.array([2, 0, 2, 5]), np.array([0.1, 0.2, 0.3, 0.4])
    )
    np.testing.assert_array_equal(ages, [0, 2, 5])
    np.testing.assert_allclose(means, [0.2, 0.2, 0.4])


def test_a_gallery_shows_the_most_and_the_least_used_entries():
    queries = jnp.asarray([[1.0, 0], [0.8, 0.6], [0, 1]])
    rows = jnp.asarray([[-1.0, 0], [3, 0], [0, 2], [-0.8, 0.6]])
    moment = Moment(
        7, Memory("bank", rows, None), queries, bank.track(queries, rows), None
    )
    shown = bank_history.gallery_rows(moment, entries=1, images=2)
    assert [(what, uses, near.tolist()) for what, uses, near in shown] == [
        ("most", 2, [0, 1]),
        ("least", 0, [2, 1]),  # of the two unused the one further from every query
    ]
    summary = moment.summary()
    assert summary["unused_share"] == 0.5
    assert summary["with_itself_before"] is None
