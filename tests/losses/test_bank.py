"""The bank games on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from caco_jax.losses.bank import adco_loss, caco_loss, nearest_entries
from caco_jax.losses.contrast import l2_normalize
from tests.losses import bank_oracle

STATIC = ("temperature", "bank_temperature", "block_size")


def draw(seed, n, k, d, dtype=np.float64):
    """Unit queries and keys, and a raw bank whose rows have unlike lengths."""
    rng = np.random.default_rng(seed)
    queries, keys = (bank_oracle.unit(rng.standard_normal((n, d))) for _ in range(2))
    bank = rng.standard_normal((k, d)) * rng.uniform(0.3, 3.0, (k, 1))
    return queries.astype(dtype), keys.astype(dtype), bank.astype(dtype)


def moves(loss):
    """Loss, aux and the moves of queries (argument 0) and bank (argument 2)."""
    return jax.jit(
        jax.value_and_grad(loss, (0, 2), has_aux=True),
        static_argnames=STATIC,
    )


caco_moves, adco_moves = moves(caco_loss), moves(adco_loss)
nearest = jax.jit(nearest_entries, static_argnames="block_size")


def assert_game(got, want, rtol=1e-10):
    (loss, aux), gradients = got
    want_loss, *want_gradients, want_aux = want
    np.testing.assert_allclose(loss, want_loss, rtol=rtol, atol=rtol)
    for found, wanted in zip(gradients, want_gradients, strict=True):
        scale = max(np.abs(wanted).max(), 1e-3)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=rtol * scale)
    for name, wanted in want_aux.items():
        np.testing.assert_allclose(
            getattr(aux, name), wanted, rtol=rtol, atol=rtol, err_msg=name
        )


@functools.partial(jax.jit, static_argnames=STATIC)
def both_games(queries, keys, bank, **options):
    positives = nearest_entries(keys, bank, block_size=options["block_size"])
    caco_game = caco_moves(queries, positives, bank, **options)
    return positives, caco_game, adco_moves(queries, keys, bank, **options)


@settings(max_examples=7, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 5),
    k=st.integers(1, 14),
    d=st.integers(2, 5),
    block_size=st.none() | st.integers(1, 15),
    temperature=st.sampled_from([0.05, 0.2, 1.0]),
    bank_temperature=st.sampled_from([None, 0.02, 0.3]),
    seed=st.integers(0, 99),
)
def test_games_equal_the_oracle(
    n, k, d, block_size, temperature, bank_temperature, seed
):
    queries, keys, bank = draw(seed, n, k, d)
    options = {
        "temperature": temperature,
        "bank_temperature": bank_temperature,
        "block_size": block_size,
    }
    both = temperature, bank_temperature or temperature
    with jax.enable_x64(True):
        positives, caco_game, adco_game = both_games(queries, keys, bank, **options)
    positives = np.asarray(positives)
    np.testing.assert_array_equal(positives, bank_oracle.nearest(keys, bank))
    assert_game(caco_game, bank_oracle.caco(queries, positives, bank, *both))
    assert_game(adco_game, bank_oracle.adco(queries, keys, bank, *both))


OPTIONS = {"temperature": 0.1, "bank_temperature": 0.3}


def variants(queries, keys, bank, *, block_size=None):
    """Both games with other candidates, other movers, and single roles."""
    options = {**OPTIONS, "block_size": block_size}
    caco_of, adco_of = (
        functools.partial(jax.value_and_grad(loss, (0, 2), has_aux=True), **options)
        for loss in (caco_loss, adco_loss)
    )
    positives = nearest_entries(keys, bank)
    arrays = queries, keys, bank
    return {
        "own key": adco_of(*arrays, batch_keys=False),
        "own key, by keys": adco_of(*arrays, batch_keys=False, movers=keys),
        "adco, by keys": adco_of(*arrays, movers=keys),
        "caco, by keys": caco_of(queries, positives, bank, movers=keys),
        "as positives": caco_of(queries, positives, bank, roles="positives"),
        "as negatives": caco_of(queries, positives, bank, roles="negatives"),
        "as both": caco_of(queries, positives, bank),
    }


def test_variants_equal_the_oracle():
    queries, keys, bank = arrays = draw(11, 5, 10, 4)
    with jax.enable_x64(True):
        got = jax.jit(functools.partial(variants, block_size=4))(*arrays)
    got = jax.device_get(got)
    positives, both = bank_oracle.nearest(keys, bank), tuple(OPTIONS.values())
    caco_of = functools.partial(bank_oracle.caco, queries, positives, bank, *both)
    alone = bank_oracle.adco_without_batch_keys(*arrays, *both)
    assert_game(got["own key"], alone)
    assert_game(got["adco, by keys"], bank_oracle.adco(*arrays, *both, movers=keys))
    assert_game(got["caco, by keys"], caco_of(movers=keys))
    assert_game(got["as positives"], caco_of(roles=["positive"]))
    assert_game(got["as negatives"], caco_of(roles=["negative"]))
    # Movers change the bank's move alone, and the roles are its two parts.
    (loss, aux), (descent, _) = got["own key, by keys"]
    np.testing.assert_allclose(loss, alone[0], rtol=1e-10)
    np.testing.assert_allclose(descent, alone[1], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(aux.batch_probability, aux.positive_probability)
    parts = got["as positives"][1][1] + got["as negatives"][1][1]
    np.testing.assert_allclose(parts, got["as both"][1][1], atol=1e-12)


def test_queries_share_a_positive_and_leave_entries_without():
    queries, _, bank = draw(1, 5, 6, 3)
    positives = np.array([4, 4, 0, 4, 5])
    with jax.enable_x64(True):
        got = caco_moves(
            queries,
            positives,
            bank,
            temperature=0.1,
            bank_temperature=0.3,
            block_size=4,
        )
    assert_game(got, bank_oracle.caco(queries, positives, bank, 0.1, 0.3))


def test_rows_of_zeros_score_zero_and_stay():
    queries, keys, bank = draw(2, 4, 7, 3)
    bank[[0, 5]] = 0.0
    positives = np.array([0, 1, 5, 0])
    options = {"temperature": 0.1, "bank_temperature": 0.2, "block_size": 3}
    with jax.enable_x64(True):
        for got, want in (
            (
                caco_moves(queries, positives, bank, **options),
                bank_oracle.caco(queries, positives, bank, 0.1, 0.2),
            ),
            (
                adco_moves(queries, keys, bank, **options),
                bank_oracle.adco(queries, keys, bank, 0.1, 0.2),
            ),
        ):
            assert_game(got, want)
            np.testing.assert_array_equal(np.asarray(got[1][1])[[0, 5]], 0.0)
        np.testing.assert_array_equal(nearest(keys, 0 * bank), 0)


def test_equal_scores_lose_the_logarithm_of_the_candidates():
    one = np.array([[0.6, 0.8]], np.float32)
    queries, bank = np.repeat(one, 3, 0), one * np.arange(1, 8)[:, None]
    bank = bank.astype(np.float32)
    options = {"temperature": 0.05, "bank_temperature": None, "block_size": 4}
    (loss, aux), _ = caco_moves(queries, np.array([6, 0, 2]), bank, **options)
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-6)
    np.testing.assert_allclose(aux.positive_probability, 1 / 7, rtol=1e-5)
    (loss, aux), _ = adco_moves(queries, queries, bank, **options)
    np.testing.assert_allclose(loss, np.log(3 + 7), rtol=1e-6)
    np.testing.assert_allclose(aux.batch_probability, 3 / 10, rtol=1e-5)


@pytest.mark.parametrize("block_size", [None, 1, 2, 4])
def test_of_entries_that_tie_the_first_is_nearest(block_size):
    directions = np.array([[0, 1], [1, 0], [2, 0], [0, 3], [4, 0]], np.float32)
    keys = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    found = nearest(keys, directions, block_size=block_size)
    np.testing.assert_array_equal(found, [1, 0, 0])
    assert found.dtype == jnp.int32


@functools.partial(jax.jit, static_argnames="temperature")
def two_copies(queries, positives, bank, temperature):
    """CaCo's ascent by autodiff: one copy of the bank is positive, one negative."""

    def loss(cooperating, opposing):
        label = jax.nn.one_hot(positives, len(bank), dtype=bool)
        scores = jnp.where(
            label,
            queries @ l2_normalize(cooperating).T,
            queries @ l2_normalize(opposing).T,
        )
        log_p = jax.nn.log_softmax(scores / temperature, axis=1)
        return -jnp.mean(log_p, axis=1, where=label).mean()

    cooperate, oppose = jax.grad(loss, (0, 1))(bank, bank)
    return oppose - cooperate


def test_caco_is_the_game_of_two_copies_of_the_bank():
    queries, keys, bank = draw(3, 6, 9, 4)
    with jax.enable_x64(True):
        positives = nearest(keys, bank)
        got = caco_moves(
            queries,
            positives,
            bank,
            temperature=0.3,
            bank_temperature=0.07,
            block_size=4,
        )
        want = two_copies(queries, positives, bank, 0.07)
    np.testing.assert_allclose(got[1][1], want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch_keys", [True, False])
def test_adco_at_one_temperature_has_true_gradients_of_two_orders(batch_keys):
    queries, keys, bank = draw(4, 3, 5, 3)
    options = {"temperature": 0.5, "block_size": 2, "batch_keys": batch_keys}
    with jax.enable_x64(True):

        @jax.jit
        def loss(queries, bank):
            return adco_loss(queries, keys, bank, **options)[0]

        check_grads(loss, (queries, bank), order=2, modes=("rev",), rtol=1e-5)


def test_nobody_else_receives_a_gradient():
    queries, keys, bank = draw(5, 4, 6, 3, np.float32)

    def payoff(keys):
        options = {"temperature": 0.2, "batch_keys": False, "movers": keys}
        return adco_loss(queries, keys, bank, **options)[0]

    def told(queries, bank):
        _, caco = caco_loss(queries, jnp.arange(4), bank, temperature=0.2)
        _, adco = adco_loss(queries, keys, bank, temperature=0.2)
        return sum(
            jnp.sum(aux.positive_probability + aux.batch_probability)
            for aux in (caco, adco)
        )

    np.testing.assert_array_equal(jax.jit(jax.grad(payoff))(keys), 0.0)
    for gradient in jax.jit(jax.grad(told, (0, 1)))(queries, bank):
        np.testing.assert_array_equal(gradient, 0.0)


def test_an_upstream_factor_scales_both_moves():
    queries, _, bank = draw(6, 4, 6, 3, np.float32)

    def payoff(queries, bank, factor):
        loss, _ = caco_loss(
            queries, jnp.arange(4), bank, temperature=0.2, bank_temperature=0.1
        )
        return factor * loss

    moves_of = jax.jit(jax.grad(payoff, (0, 1)))
    single, triple = (moves_of(queries, bank, factor) for factor in (1.0, -3.0))
    for one, three in zip(single, triple, strict=True):
        np.testing.assert_allclose(three, -3 * one, rtol=1e-5, atol=1e-7)


def test_permuting_the_bank_permutes_its_move():
    queries, _, bank = draw(7, 5, 8, 3)
    positives = np.array([0, 3, 3, 7, 2])
    order = np.random.default_rng(0).permutation(len(bank))
    moved_positives = np.argsort(order)[positives]
    options = {"temperature": 0.2, "bank_temperature": 0.1, "block_size": 3}
    with jax.enable_x64(True):
        plain = caco_moves(queries, positives, bank, **options)
        moved = caco_moves(queries, moved_positives, bank[order], **options)
    np.testing.assert_allclose(moved[0][0], plain[0][0], rtol=1e-12)
    np.testing.assert_allclose(moved[1][0], plain[1][0], rtol=1e-9, atol=1e-12)
    want = np.asarray(plain[1][1])[order]
    np.testing.assert_allclose(moved[1][1], want, rtol=1e-9, atol=1e-12)


def test_temperatures_may_be_traced():
    queries, _, bank = draw(8, 4, 6, 3, np.float32)
    positives = np.arange(4)
    scheduled = jax.jit(
        lambda t, t_bank: jax.value_and_grad(caco_loss, (0, 2), has_aux=True)(
            queries, positives, bank, temperature=t, bank_temperature=t_bank
        )
    )
    for bank_temperature in (0.2, 0.05):  # one softmax, or two
        want = caco_moves(
            queries,
            positives,
            bank,
            temperature=0.2,
            bank_temperature=bank_temperature,
            block_size=None,
        )
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
            scheduled(0.2, bank_temperature),
            want,
        )


@pytest.mark.parametrize("temperature", [0.02, 0.2])
def test_bfloat16_sums_in_float32(temperature):
    queries, keys, bank = (x.astype(jnp.bfloat16) for x in draw(9, 6, 40, 16))
    options = {"temperature": temperature, "bank_temperature": None, "block_size": 16}
    positives = nearest(keys, bank)
    wide = [np.asarray(x, np.float64) for x in (queries, keys, bank)]
    both = temperature, temperature
    for got, want in (
        (
            caco_moves(queries, positives, bank, **options),
            bank_oracle.caco(wide[0], np.asarray(positives), wide[2], *both),
        ),
        (
            adco_moves(queries, keys, bank, **options),
            bank_oracle.adco(*wide, *both),
        ),
    ):
        (loss, _), gradients = got
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, want[0], rtol=1e-5)
        for gradient, wanted in zip(gradients, want[1:3], strict=True):
            assert gradient.dtype == jnp.bfloat16  # rounded once, at the end
            gradient = np.asarray(gradient, np.float64)
            np.testing.assert_allclose(gradient, wanted, rtol=6e-3, atol=1e-5)


def test_scores_far_beyond_the_range_of_exp_stay_finite():
    queries, keys, bank = draw(10, 4, 9, 3, np.float32)
    options = {"temperature": 1e-3, "bank_temperature": 1e-4, "block_size": 4}
    for got in (
        caco_moves(30 * queries, np.arange(4), bank, **options),
        adco_moves(30 * queries, keys, bank, **options),
    ):
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(got))


def compiled(function, n, k, d=8):
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((n, d), "float32"), ((n,), "int32"), ((k, d), "float32"))
    ]
    return jax.jit(function).lower(*shapes).compile()


def payoff(queries, positives, bank):
    return caco_loss(
        queries, positives, bank, temperature=0.1, bank_temperature=0.2, block_size=128
    )[0]


@pytest.mark.parametrize(
    "function",
    [
        payoff,
        jax.grad(payoff, 0),
        jax.grad(payoff, (0, 2)),  # the bank's gradient is an output, not temporary
        lambda queries, _, bank: nearest_entries(queries, bank, block_size=128),
    ],
    ids=["loss", "queries", "queries and bank", "nearest"],
)
def test_memory_does_not_grow_with_queries_times_entries(function):
    small, large = (
        compiled(function, 64, k).memory_analysis().temp_size_in_bytes
        for k in (1024, 8192)
    )
    assert large - small <= 4096
    assert large < 64 * 8192 * 4 / 4  # bytes of a quarter of the scores


def test_only_the_bank_needs_a_second_walk():
    walks = [
        compiled(function, 16, 1024).as_text().count(" while(")
        for function in (payoff, jax.grad(payoff, 0), jax.grad(payoff, (0, 2)))
    ]
    assert walks == [1, 1, 2]


E_ = np.eye(4, 3, dtype=np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nearest_entries(E_[0], E_), ValueError, r"keys: .*\(3,\)"),
        (lambda: nearest_entries(E_, E_[:0]), ValueError, r"bank: .*\(0, 3\)"),
        (lambda: nearest_entries(E_, E_[:, :2]), ValueError, r"\(4, 3\).*\(4, 2\)"),
        (lambda: nearest_entries(E_, E_.astype(int)), TypeError, "bank: .*int"),
        (lambda: nearest_entries(E_, E_, block_size=0), ValueError, "block_size.*0"),
        (lambda: nearest_entries(E_, E_, block_size=2.0), TypeError, "block_size.*2.0"),
        (lambda: caco(positives=np.zeros(3, int)), ValueError, r"\(3,\).*\(4, 3\)"),
        (lambda: caco(positives=np.zeros(4)), TypeError, "positives: .*float"),
        (lambda: caco(queries=E_.astype(int)), TypeError, "queries: .*int"),
        (lambda: caco(queries=E_[:0]), ValueError, r"queries: .*\(0, 3\)"),
        (lambda: caco(bank=E_[:, :2]), ValueError, r"\(4, 3\).*\(4, 2\)"),
        (lambda: caco(temperature=0.0), ValueError, r"temperature: .*0\.0"),
        (lambda: caco(bank_temperature=-1.0), ValueError, r"bank_temperature: .*-1\.0"),
        (lambda: caco(bank_temperature=0.0), ValueError, r"bank_temperature: .*0\.0"),
        (lambda: caco(block_size=-1), ValueError, "block_size.*-1"),
        (lambda: caco(roles="all"), ValueError, "roles: .*both, positives.*'all'"),
        (lambda: caco(movers=E_[:3]), ValueError, r"queries \(4, 3\), movers \(3, 3\)"),
        (lambda: adco(movers=E_.astype(int)), TypeError, "movers: .*int"),
        (lambda: adco(keys=E_[:3]), ValueError, r"\(4, 3\).*\(3, 3\)"),
        (lambda: adco(keys=E_.astype(int)), TypeError, "keys: .*int"),
        (lambda: adco(temperature=float("nan")), ValueError, "temperature: .*nan"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def caco(queries=E_, positives=None, bank=E_, temperature=0.1, **options):
    positives = np.zeros(4, np.int32) if positives is None else positives
    return caco_loss(queries, positives, bank, temperature=temperature, **options)


def adco(queries=E_, keys=E_, bank=E_, temperature=0.1, **options):
    return adco_loss(queries, keys, bank, temperature=temperature, **options)
