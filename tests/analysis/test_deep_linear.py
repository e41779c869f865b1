"""Deep linear networks under fixed α do PCA, and where they do not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax import losses
from caco_jax.analysis import deep_linear
from caco_jax.analysis import pairs as make

STARTS = 128


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@functools.cache
def inputs(name):
    key = jax.random.key(0)
    if name == "digits":
        return make.digit_pairs(count=96, dim=4)
    if name == "negative":
        return make.gaussian_pairs(key, count=96, dim=8, noise=3.0)
    pairs = make.gaussian_pairs(key, count=96, dim=8)
    return make.tie_top_eigenvalues(pairs) if name == "tied" else pairs


def climb(name, depth, width, **options):
    covariance = inputs(name).covariance
    sizes = (len(covariance), *[width] * depth)
    keys = jax.random.split(jax.random.key(1), STARTS)
    starts = jax.vmap(lambda key: deep_linear.random_weights(key, sizes))(keys)
    ascent = deep_linear.ascend(covariance, starts, **options)
    return ascent, deep_linear.judge(ascent, covariance)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("width", [3, 8])
@pytest.mark.parametrize(
    "name", ["gaussian", pytest.param("digits", marks=pytest.mark.slow)]
)
def test_every_start_ends_at_the_top_eigenvector(name, width, depth):
    ascent, verdict = climb(name, depth, width)
    assert deep_linear.failed_conditions(inputs(name).covariance) == []
    assert verdict.gaps.shape == (STARTS,)
    assert np.abs(verdict.gaps).max() <= 1e-6
    assert verdict.rank_ratios.max() <= 1e-3
    assert verdict.cosines.min() >= 0.999
    assert verdict.stuck == {}
    assert ascent.energy_curve.shape == (len(ascent.curve_steps), STARTS)
    climbed = np.diff(ascent.energy_curve, axis=0)
    assert climbed.min() >= -1e-9 * ascent.energy_curve.max()


def test_the_energy_is_that_of_the_embeddings():
    pairs = inputs("gaussian")
    weights = deep_linear.random_weights(jax.random.key(3), (8, 5, 4))
    for layer in weights:
        assert jnp.linalg.norm(layer) == pytest.approx(1)
    whole = weights[1] @ weights[0]
    want = losses.contrastive_energy(
        pairs.x1 @ whole.T, pairs.x2 @ whole.T, pairs.alpha
    )
    np.testing.assert_allclose(deep_linear.energy(weights, pairs.covariance), want)


def test_tied_eigenvalues_keep_the_energy_and_lose_the_direction():
    covariance = inputs("tied").covariance
    top = np.linalg.eigvalsh(covariance)[-2:]
    np.testing.assert_allclose(top[0], top[1], rtol=1e-12)
    ascent, verdict = climb("tied", 2, 3)
    assert np.abs(verdict.gaps).max() <= 1e-6
    assert verdict.rank_ratios.max() <= 1e-3
    assert verdict.cosines.min() < 0.3 < 0.9 < verdict.cosines.max()
    plane = deep_linear.in_top_plane(ascent, covariance)
    np.testing.assert_allclose(np.sum(plane**2, axis=1), 1, atol=1e-6)
    # One layer does not even have to be of rank 1.
    assert climb("tied", 1, 3)[1].rank_ratios.max() > 0.1


def test_below_zero_one_layer_obeys_and_two_vanish():
    assert np.linalg.eigvalsh(inputs("negative").covariance)[-1] < 0
    assert np.abs(climb("negative", 1, 3)[1].gaps).max() <= 1e-6
    ascent, verdict = climb("negative", 2, 3, steps=2**10)
    np.testing.assert_allclose(verdict.gaps, -1, atol=1e-3)
    assert set(verdict.stuck) == set(range(STARTS))
    assert set(verdict.stuck.values()) == {
        "collapsed: the product vanished, its norm is below 0.01"
    }
    assert np.linalg.norm(ascent.products, axis=(1, 2)).max() < 0.01


def test_a_run_that_stops_early_says_why():
    covariance = jnp.diag(jnp.asarray([1.0, 2.0, 3.0]))
    saddle = jnp.zeros((1, 2, 3)).at[0, 0, 1].set(1.0)  # on the second eigenvector
    rest = deep_linear.judge(deep_linear.ascend(covariance, (saddle,)), covariance)
    assert rest.gaps == pytest.approx(1 / 3)
    assert rest.stuck == {
        0: "at a saddle point: eigenvector 2 of 3 (|cos| 1.0000, eigenvalue 2)"
    }
    nearly = saddle.at[0, 0, 2].set(1e-3)
    short = deep_linear.ascend(covariance, (nearly,), steps=2)
    assert short.steps == 2
    hasty = deep_linear.judge(short, covariance)
    assert hasty.stuck[0].startswith("not converged: gradient norm ")
    long = deep_linear.judge(deep_linear.ascend(covariance, (nearly,)), covariance)
    assert long.stuck == {}


def test_weights_of_ones_own_make_the_covariance():
    pairs = inputs("gaussian")
    alpha = jnp.ones((96, 96)) / 96
    given = make.given_pairs(pairs.x1, pairs.x2, alpha)
    np.testing.assert_array_equal(given.alpha, alpha)
    weighted = make.given_pairs(pairs.x1, pairs.x2)
    np.testing.assert_allclose(weighted.covariance, pairs.covariance)


@pytest.mark.parametrize(
    ("covariance", "sizes", "message"),
    [
        (-jnp.eye(2), (2, 3), "top eigenvalue of X_α is not above 0: -1"),
        (jnp.eye(2), (2, 3), "does not apply: the top two eigenvalues .* are tied: 1"),
        (jnp.diag(jnp.arange(2.0)), (2,), r"at least one layer.* got sizes \(2,\)"),
        (jnp.diag(jnp.arange(2.0)), (2, 0), "each with one unit or more"),
        (jnp.asarray([[1.0, 2], [0, 1]]), (2, 3), "expected a symmetric matrix"),
        (jnp.asarray([[jnp.nan, 0], [0, 1]]), (2, 3), "got NaN or infinity"),
        (jnp.ones((2, 3)), (3, 3), r"expected \[d, d\], got shape \(2, 3\)"),
    ],
)
def test_where_the_theorem_does_not_apply_the_condition_is_named(
    covariance, sizes, message
):
    with pytest.raises(ValueError, match=message):
        deep_linear.check_theorem(covariance, sizes)


def test_inputs_that_do_not_fit_are_refused():
    pairs = inputs("gaussian")
    bad = pairs.alpha.at[5, 2].set(-1.0)
    with pytest.raises(ValueError, match="row 5 has a negative entry"):
        make.given_pairs(pairs.x1, pairs.x2, bad)
    with pytest.raises(ValueError, match="x2: expected finite entries"):
        make.given_pairs(pairs.x1, pairs.x2.at[0, 0].set(jnp.nan))
    starts = tuple(
        w[None] for w in deep_linear.random_weights(jax.random.key(0), (3, 2))
    )
    with pytest.raises(ValueError, match=r"a first layer of 8 inputs.* got 3"):
        deep_linear.ascend(pairs.covariance, starts)
    with pytest.raises(ValueError, match="two eigenvalues above 0 to tie"):
        make.tie_top_eigenvalues(inputs("negative"))
