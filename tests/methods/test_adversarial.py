"""CLAE over a method: what holds for every host; the goldens check its numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.methods.adversarial import adversarial, memoize, perturb
from caco_jax.methods.method import Context, Network, View
from caco_jax.methods.registry import METHODS
from caco_jax.training.encode import make_encode
from tests.methods.table import (
    EPSILON,
    KEY,
    WEIGHT,
    PixelEncoder,
    draw_images,
    make_step,
    make_views,
    small_method,
    start,
)


def setting(name, num_views=2, **changes):
    """A small host, its state's context and views, in float32."""
    method = small_method(name, **changes)
    encoder = PixelEncoder()
    _, optimizer = make_step(method, encoder, num_views)
    state = start(method, encoder, optimizer)
    context = Context(state.stats, state.target, state.extra, make_encode(encoder))
    views = [View(view) for view in make_views(num_views)(KEY, draw_images())]
    return method, state.players, context, views


def recorded(context):
    """The context, and the list of (network, branch, rows) that it will encode."""
    calls = []

    def watch(kind, encode):
        def record(network, view):
            calls.append((kind, view.branch, view.images.shape[:2]))
            return encode(network, view)

        return record

    encode = context.encode
    encode = encode._replace(
        online=watch("online", encode.online), target=watch("target", encode.target)
    )
    return context._replace(encode=encode), calls


CLEAN, TWIN = ("online", "clean"), ("online", "adversarial")
KEY_PASS = ("target", "clean")
PASSES = {
    "simclr": [CLEAN, CLEAN, TWIN, TWIN, TWIN],
    "uel": [CLEAN, CLEAN, TWIN, TWIN, TWIN],
    "moco": [CLEAN, KEY_PASS, TWIN, TWIN],
    "adco": [CLEAN, KEY_PASS, TWIN, TWIN],
    "caco": [CLEAN, CLEAN, KEY_PASS, KEY_PASS, TWIN, TWIN],
}


@pytest.mark.parametrize("name", PASSES)
def test_clean_views_are_encoded_once_and_adversarial_ones_never_as_keys(name):
    method, players, context, views = setting(name)
    context, calls = recorded(context)
    wrapped = adversarial(method, epsilon=EPSILON, weight=WEIGHT)
    jax.eval_shape(lambda p: wrapped.payoff(p, context, views)[0], players)
    assert [call[:2] for call in calls] == PASSES[name]


def test_plains_code_encodes_the_clean_view_again():
    method, players, context, views = setting("plain")
    context, calls = recorded(context)
    wrapped = adversarial(method, epsilon=EPSILON, weight=1.0, reencode_clean=True)
    jax.eval_shape(lambda p: wrapped.payoff(p, context, views)[0], players)
    branches = [branch for _, branch, _ in calls]
    assert branches.count("clean") == 3
    assert branches.count("adversarial") == 3


@pytest.mark.parametrize("name", ["caco", "adco"])
def test_in_multicrop_a_large_view_is_attacked_against_the_others_key(name):
    method, players, context, views = setting(name, num_views=4)
    context, calls = recorded(context)
    wrapped = adversarial(method, epsilon=EPSILON, weight=WEIGHT)
    _, outcome = jax.eval_shape(lambda p: wrapped.payoff(p, context, views), players)
    attacked = [shape for _, branch, shape in calls if branch == "adversarial"]
    assert attacked == [views[1].images.shape[:2]] * 2

    @jax.jit
    def moves(players):
        found = perturb(method, players, context, views, epsilon=EPSILON)
        return jnp.abs(found.images - views[1].images)

    np.testing.assert_allclose(moves(players), EPSILON, rtol=1e-4)
    assert outcome.metrics["adversarial_cross_entropy"].shape == ()


ONE_OF_A_KIND = [
    pytest.param(
        name, marks=[pytest.mark.slow] * (name in ("plain", "uel", "alpha_cl"))
    )
    for name in METHODS
]


@pytest.mark.parametrize("name", METHODS)
def test_the_attack_raises_the_hosts_payoff(name):
    method, players, context, views = setting(name)
    where = method.attack(2)

    @jax.jit
    def before_and_after(players):
        found = perturb(method, players, context, views, epsilon=1e-3)
        adversary = View(found.images, "adversarial")
        if where.as_query:
            pair = [adversary, views[where.partner]]
        else:
            pair = [View(views[0].images, "adversarial"), adversary]
        harder, _ = method.payoff(players, context, pair)
        return found, harder

    found, harder = before_and_after(players)
    # To first order the payoff grows by epsilon times the sum of |slope|.
    expected = 1e-3 * float(np.abs(found.gradient).sum())
    assert expected > 0
    rise = float(harder - found.payoff)
    if name == "uel":  # its gradient stops at every second factor: half of the slope
        assert rise > 0.5 * expected
    else:
        np.testing.assert_allclose(rise, expected, rtol=0.1)
    source = views[where.source].images
    moved, gradient = np.asarray(found.images) - source, np.asarray(found.gradient)
    np.testing.assert_array_equal(np.sign(moved), np.sign(gradient))


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_weight_zero_leaves_the_players_the_clean_gradient(name):
    method, players, context, views = setting(name)
    wrapped = adversarial(method, epsilon=EPSILON, weight=0.0)

    def gradient(payoff):
        return jax.jit(jax.grad(lambda p: payoff(p, context, views)[0]))(players)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        gradient(wrapped.payoff),
        gradient(method.payoff),
    )


def test_what_follows_a_step_follows_from_the_clean_payoff():
    method, players, context, views = setting("moco")
    wrapped = adversarial(method, epsilon=EPSILON, weight=WEIGHT)
    _, clean = jax.jit(lambda p: method.payoff(p, context, views))(players)
    _, both = jax.jit(lambda p: wrapped.payoff(p, context, views))(players)
    np.testing.assert_allclose(both.arrays["keys"], clean.arrays["keys"], rtol=1e-6)
    assert wrapped.advance is method.advance
    assert clean.metrics.keys() < both.metrics.keys()


def test_a_remembered_view_is_known_by_its_identity():
    calls = []

    def encode(network, view):
        calls.append(view)
        return view.images, Network(network.params, len(calls))

    recall = memoize(encode)
    first, twin = View(jnp.ones((2, 3))), View(jnp.ones((2, 3)))
    network = Network({}, 0)
    _, network = recall(network, first)
    _, network = recall(network, first)
    assert network.stats == 1
    _, network = recall(network, twin)
    assert network.stats == 2
    assert calls == [first, twin]


def test_the_description_says_epsilon_in_grey_levels_too():
    method = small_method("simclr")
    wrapped = adversarial(method, epsilon=0.03, weight=1.0, pixel_std=(0.2, 0.4))
    assert wrapped.description == (
        f"{method.description}; CLAE, ε = 0.03 of normalised pixels, "
        "1.5, 3.1 of 255 grey levels"
    )
    assert wrapped.name == "simclr"


def test_a_method_is_attacked_once():
    once = adversarial(small_method("caco"), epsilon=EPSILON, weight=WEIGHT)
    with pytest.raises(ValueError, match=r"^caco: expected a method that .* none yet"):
        adversarial(once, epsilon=EPSILON, weight=WEIGHT)


@pytest.mark.parametrize(
    "numbers, message",
    [
        (
            {"epsilon": 0.0, "weight": 1.0},
            "epsilon: expected a finite number > 0, got 0",
        ),
        (
            {"epsilon": 0.1, "weight": -1.0},
            "weight: expected a finite number of at least",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        adversarial(small_method("simclr"), **numbers)


def test_an_encoder_without_twins_cannot_meet_an_adversary():
    encoder = PixelEncoder(adversarial_branch=False)
    step, optimizer = make_step(small_method("simclr", clae=True), encoder, 2)
    state = start(small_method("simclr"), encoder, optimizer)
    with pytest.raises(ValueError, match="adversarial_branch=True"):
        jax.eval_shape(step, state, draw_images())
