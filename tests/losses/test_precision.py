"""The precision of the products: which ones it reaches, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax import methods
from caco_jax.losses import PRECISIONS, adco_loss, caco_loss, info_nce, moco_loss
from caco_jax.losses.bank import nearest_entries
from caco_jax.methods.method import Context, Encode, Network, View
from experiments.benchmarks import precision as benchmark

N, K, D = 4, 12, 8
ROWS, BANK = jnp.ones((N, D)), jnp.ones((K, D))
LABELS = jnp.zeros(N, jnp.int32)


def value_and_moves(loss, *arguments, **options):
    """The loss with both gradients, so that all products of a game are traced."""

    def mean(queries, bank):
        found = loss(queries, *arguments, bank, **options)
        return jnp.mean(found[0] if isinstance(found, tuple) else found)

    return functools.partial(jax.value_and_grad(mean, (0, 1)), ROWS, BANK)


PLACES = {
    "nearest_entries": lambda **options: lambda: nearest_entries(ROWS, BANK, **options),
    "caco_loss": lambda **options: value_and_moves(
        caco_loss, LABELS, temperature=0.1, **options
    ),
    "adco_loss": lambda **options: value_and_moves(
        adco_loss, ROWS, temperature=0.1, **options
    ),
    "info_nce": lambda **options: value_and_moves(
        info_nce, ROWS, temperature=0.1, batch_keys=True, **options
    ),
    "moco_loss": lambda **options: value_and_moves(
        moco_loss, ROWS, temperature=0.1, batch_keys=True, **options
    ),
}


def precisions_of(play):
    """The precisions of all products of matrices in a lowered function."""
    text = jax.jit(play).lower().as_text()
    lines = [line for line in text.splitlines() if "dot_general" in line]
    assert lines
    return {
        line.split("precision = [")[1].split("]")[0]
        if "precision = [" in line
        else "DEFAULT, DEFAULT"
        for line in lines
    }


@pytest.mark.parametrize("place", PLACES)
def test_every_product_has_the_precision_asked_for(place):
    assert precisions_of(PLACES[place]()) == {"HIGHEST, HIGHEST"}
    for name in PRECISIONS:
        word = name.upper()
        assert precisions_of(PLACES[place](precision=name)) == {f"{word}, {word}"}


@pytest.mark.parametrize("place", PLACES)
def test_an_unknown_precision_is_refused(place):
    with pytest.raises(
        ValueError, match="precision: expected one of highest, high, default, got 'low'"
    ):
        PLACES[place](precision="low")()


@pytest.mark.parametrize("name", ["adco", "caco", "moco"])
def test_a_method_hands_its_precision_on(name):
    method = getattr(methods, name)(precision="high")(D)
    bank, extra = method.init(jax.random.key(0))
    table = jnp.ones((2, N, D))  # of both views: an encoder without products

    def embed(network, view):
        return network.params[view.images], network

    def play():
        context = Context(
            jnp.zeros(()),
            Network(table, jnp.zeros(())),
            extra,
            Encode(embed, embed),
        )
        views = [View(jnp.asarray(number)) for number in (0, 1)]
        players = {"encoder": table, **bank}
        return jax.value_and_grad(method.payoff, has_aux=True)(players, context, views)

    assert precisions_of(play) == {"HIGH, HIGH"}


def test_the_key_of_a_method_is_checked():
    with pytest.raises(ValueError, match=r"precision: .* got 'low'"):
        methods.moco(precision="low")


@pytest.mark.parametrize("game", benchmark.GAMES)
def test_the_benchmark_plays_the_games_of_the_package(game):
    temperature, bank_temperature, where = benchmark.GAMES[game]
    with jax.enable_x64(True):
        arrays = benchmark.make_arrays(6, 40, 5)
        named = benchmark._as(arrays, jnp.float64)
        found = benchmark.play(named, game, jnp.matmul)
        queries, bank = named["queries"], named["bank"]
        options = dict(temperature=temperature, bank_temperature=bank_temperature)
        if where == "key":
            play = lambda q, w: adco_loss(q, named["keys"], w, **options)[0]  # noqa: E731
        else:
            play = lambda q, w: caco_loss(q, named["positives"], w, **options)[0]  # noqa: E731
        loss, (descent, ascent) = jax.value_and_grad(play, (0, 1))(queries, bank)
        np.testing.assert_allclose(found["loss"], loss, rtol=1e-9)
        np.testing.assert_allclose(found["encoder"], descent, rtol=1e-8, atol=1e-11)
        np.testing.assert_allclose(found["bank"], ascent, rtol=1e-8, atol=1e-11)
        np.testing.assert_array_equal(
            found["nearest"], nearest_entries(named["keys"], bank)
        )


def test_fewer_bits_and_fewer_passes_err_more():
    rows = benchmark.measure(16, 200, 32)
    for game in benchmark.GAMES:
        errors = [row["bank"] for row in rows if row["game"] == game]
        assert errors == sorted(errors)
        assert errors[0] < 1e-5 < errors[-1]
