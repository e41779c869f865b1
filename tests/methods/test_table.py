"""What must hold for every method, with and without CLAE, for two views and more."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.training.sharding import make_mesh, rows, state_shardings
from tests.methods.table import (
    PAIR_LOSSES,
    PixelEncoder,
    cases,
    draw_images,
    make_step,
    payoff_of,
    small_method,
    start,
)


class Case:
    """One line of the table; what is compiled is compiled once."""

    def __init__(self, name, clae, num_views):
        self.name, self.clae, self.num_views = name, clae, num_views
        self.method = small_method(name, clae=clae)
        with jax.enable_x64(True):
            self.encoder = PixelEncoder(param_dtype=jnp.float64)
            self.step, self.optimizer = make_step(self.method, self.encoder, num_views)
            self.state = start(
                self.method, self.encoder, self.optimizer, dtype=jnp.float64
            )
            self.images = np.asarray(draw_images(), np.float64)

    @functools.cached_property
    def on_one(self):
        """The jitted step, and two consecutive steps of it in float64."""
        step = jax.jit(self.step)
        with jax.enable_x64(True):
            first, _ = step(self.state, self.images)
            second, metrics = step(first, self.images[::-1])
        return step, [self.state, first, second], metrics

    @functools.cached_property
    def in_bfloat16(self):
        """A step whose encoder computes in bfloat16, and the state before it."""
        encoder = PixelEncoder(dtype=jnp.bfloat16)
        step, optimizer = make_step(self.method, encoder, self.num_views)
        return step, start(self.method, encoder, optimizer)

    @functools.cached_property
    def gradients(self):
        """Images -> the loss and its gradient for everything it is made of."""
        payoff = payoff_of(self.method, self.encoder, self.num_views)
        state = self.state

        @jax.jit
        def of_images(images):
            arguments = state.players, state.stats, state.target, state.extra
            return jax.value_and_grad(payoff, argnums=(0, 1, 2, 3), allow_int=True)(
                *arguments, images
            )

        def in_double(images):
            with jax.enable_x64(True):
                return of_images(images)

        return in_double


def label(case):
    name, clae, num_views = case
    return f"{name}{'+clae' if clae else ''}-{num_views}-views"


# On eight devices and in bfloat16: a method of each kind of memory.
SPREAD = [
    ("caco", False, 2),
    ("adco", True, 2),
    ("moco", False, 2),
    ("simclr", True, 2),
]


def params(is_slow):
    return [
        pytest.param(case, id=label(case), marks=[pytest.mark.slow] * is_slow(*case))
        for case in cases()
    ]


def is_slow(name, clae, num_views):
    return clae and (name in PAIR_LOSSES or num_views > 2)


@functools.cache
def case_of(which):
    return Case(*which)


@pytest.fixture(scope="module", params=params(is_slow))
def case(request):
    return case_of(request.param)


@pytest.fixture(scope="module", params=params(lambda *which: which not in SPREAD))
def spread_case(request):
    return case_of(request.param)


def describe(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


def largest(tree):
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    leaves = [leaf for leaf in leaves if leaf.dtype != jax.dtypes.float0]
    return max((np.abs(leaf).max() for leaf in leaves if leaf.size), default=0)


def assert_close(got, want, tolerance):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance),
        jax.device_get(got),
        jax.device_get(want),
    )


def test_the_second_step_finds_the_first_ones_program_and_state(case):
    step, states, _ = case.on_one
    assert step._cache_size() == 1
    first, *later = map(describe, states)
    for state in later:
        assert state == first


def test_players_and_statistics_move(case):
    _, states, metrics = case.on_one
    before, after, _ = jax.device_get(states)
    for name, old in before.players.items():
        moved = jax.tree.map(np.subtract, after.players[name], old)
        assert largest(moved) > 1e-6, name
    assert set(before.players) == set(case.method.moves)
    twins = [
        not np.array_equal(old, new)
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(before.stats),
            jax.tree.leaves(after.stats),
            strict=True,
        )
        if "adversarial" in jax.tree_util.keystr(path)
    ]
    assert twins
    assert set(twins) == {case.clae}
    assert all(np.isfinite(value) for value in jax.device_get(metrics).values())


def test_eight_devices_do_what_one_does(spread_case, devices):
    case = spread_case
    _, states, want = case.on_one
    mesh = make_mesh(devices)
    with jax.enable_x64(True), jax.set_mesh(mesh):
        shardings = state_shardings(
            case.state, mesh, row_sharded=case.method.row_sharded
        )
        step = jax.jit(
            case.step,
            in_shardings=(shardings, rows(mesh)),
            out_shardings=(shardings, None),
        )
        state = jax.device_put(case.state, shardings)
        state, _ = step(state, jax.device_put(case.images, rows(mesh)))
        state, got = step(state, jax.device_put(case.images[::-1], rows(mesh)))
    assert_close(got, want, 1e-6)  # some are float32 whatever the state is
    assert_close(state, states[-1], 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, settings, num_views",
    [
        ("adco", {"batch_keys": False, "bank_moved_by": "keys"}, 2),
        ("moco", {"batch_keys": True}, 2),
        ("caco", {"positive": "random", "bank_roles": "negatives"}, 2),
        ("caco", {"bank_moved_by": "keys", "pass_per_view": True}, 4),
    ],
)
def test_other_settings_do_on_eight_devices_what_they_do_on_one(
    name, settings, num_views, devices
):
    method, encoder = small_method(name, **settings), PixelEncoder()
    step, optimizer = make_step(method, encoder, num_views)
    found = []
    for count in (1, 8):
        mesh = make_mesh(devices[:count])
        with jax.set_mesh(mesh):
            state = start(method, encoder, optimizer)
            sharded = method.row_sharded
            shardings = state_shardings(state, mesh, row_sharded=sharded)
            play = jax.jit(step, in_shardings=(shardings, rows(mesh)))
            state = jax.device_put(state, shardings)
            for images in (draw_images(), draw_images()[::-1]):
                state, metrics = play(state, jax.device_put(images, rows(mesh)))
        found.append((state.players, state.extra, metrics))
    assert_close(found[1], found[0], 1e-4)


def test_the_payoff_has_a_gradient_for_players_only(case):
    _, (players, stats, target, extra) = case.gradients(case.images)
    assert set(players) == set(case.method.moves)
    for name, gradient in players.items():
        assert largest(gradient) > 1e-4, name
    by_name = jax.tree_util.tree_leaves_with_path(players["encoder"])
    for path, leaf in by_name:
        twin = "adversarial" in jax.tree_util.keystr(path)
        reached = largest(leaf) > 1e-9
        assert reached == (case.clae or not twin), jax.tree_util.keystr(path)
    assert largest(target) == 0
    assert largest(extra) == 0
    assert largest(stats) < 1e-12  # rounding: BatchNorm centres on its running mean


def test_the_order_of_the_samples_does_not_matter(case):
    order = np.random.default_rng(0).permutation(len(case.images))
    want, (gradients, *_) = case.gradients(case.images)
    got, (permuted, *_) = case.gradients(case.images[order])
    assert_close(got, want, 1e-10)
    assert_close(permuted, gradients, 1e-10)


def test_a_step_in_bfloat16_keeps_its_dtypes(case):
    step, before = case.in_bfloat16
    after, _ = jax.eval_shape(step, before, draw_images())
    assert describe(after) == describe(before)


def test_a_step_in_bfloat16_is_finite(spread_case):
    step, before = spread_case.in_bfloat16
    after, metrics = jax.jit(step)(before, draw_images())
    assert describe(after) == describe(before)
    floats = [
        leaf
        for leaf in jax.tree.leaves((after, metrics))
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in floats)
