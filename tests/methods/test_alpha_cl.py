"""α-CL as a method: every importance, by its definition."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax import losses, methods
from caco_jax.losses import FAMILIES
from caco_jax.losses.contrast import nt_xent
from caco_jax.methods.alpha_cl import AlphaClConfig, make
from caco_jax.methods.alpha_cl import importance as importance_of
from caco_jax.methods.registry import MethodBuilder
from caco_jax.schema import ConfigError, accepted
from tests.methods.test_simclr import play, with_gradient

ROWS = np.random.default_rng(0).normal(size=(2, 4, 3))
UNIT = ROWS / np.linalg.norm(ROWS, axis=-1, keepdims=True)
TABLE = np.float32(UNIT)
FIELDS = AlphaClConfig.__dataclass_fields__
SHAPES, NORMALISATIONS = (
    FIELDS[name].metadata["allowed"] for name in ("importance", "normalisation")
)


def loss_of(**settings):
    return play(methods.alpha_cl(**settings)(3), TABLE)[0]


def energy(weigh, intra_weight=0.0):
    """The loss by its definition: `weigh` gives a row's weights from its d²."""
    rows, losses = UNIT.reshape(8, 3), []
    for r in range(8):
        squared = 1 - rows @ rows[r]
        twin = squared[(r + 4) % 8]
        others = np.delete(squared, [r, (r + 4) % 8])
        weights = weigh(others)
        inter = np.sum(weights * (twin - others))
        losses.append(inter + intra_weight * twin * weights.sum())
    return np.mean(losses)


def rows_sum_to_one(weights):
    return weights / weights.sum()


def simplex(squared, temperature):
    """max(level - d, 0) / τ that sums to 1, the level by bisection."""
    low, high = 0.0, 10.0
    for _ in range(100):
        level = (low + high) / 2
        total = np.maximum(level - squared, 0).sum() / temperature
        low, high = (low, level) if total > 1 else (level, high)
    return np.maximum(level - squared, 0) / temperature


def test_the_default_is_the_papers_direct_choice():
    want = energy(lambda squared: rows_sum_to_one(np.exp(-(squared**2) / 0.5)))
    np.testing.assert_allclose(loss_of(), want, rtol=1e-5)


@pytest.mark.parametrize(
    "settings, weigh",
    [
        (
            {"importance": "exponential", "normalisation": "none", "power": 2.0},
            lambda squared: np.exp(-squared / 0.5),
        ),
        (
            {"importance": "inverse", "power": 2.0, "inverse_exponent": 1.5},
            lambda squared: rows_sum_to_one((squared + 0.5) ** -1.5),
        ),
        (
            {"importance": "quadratic", "normalisation": "none", "power": 2.0},
            lambda squared: simplex(squared, 0.5),
        ),
        (
            {"importance": "logistic", "normalisation": "none"},
            lambda squared: 1 / (1 + np.exp(squared / 0.5)) / (0.5 * 6),
        ),
        ({"importance": "uniform"}, lambda squared: np.full(6, 1 / 6)),
        (
            {"importance": "uniform", "row_epsilon": 1.0},
            lambda squared: np.full(6, 1 / 6 / 7),
        ),
    ],
)
@pytest.mark.parametrize("intra_weight", [0.0, 0.7])
def test_each_importance_is_its_formula(settings, weigh, intra_weight):
    got = loss_of(intra_weight=intra_weight, **settings)
    np.testing.assert_allclose(got, energy(weigh, intra_weight), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("intra_weight", [0.0, 0.7])
def test_infonce_is_nt_xent_with_a_pull_on_the_pairs(intra_weight):
    got = loss_of(importance="infonce", temperature=0.4, intra_weight=intra_weight)
    alignment = np.mean(np.sum(UNIT[0] * UNIT[1], axis=1)) / 0.4
    plain = jax.jit(functools.partial(nt_xent, temperature=0.4))(*TABLE)
    want = plain - intra_weight * alignment
    np.testing.assert_allclose(got, want / (1 + intra_weight), rtol=1e-5)


def pairs():
    """All importances and all normalisations; with each other in the slow tests."""
    for pair in itertools.product(sorted(set(SHAPES) - {"infonce"}), NORMALISATIONS):
        usual = pair[0] == "exponential" or pair[1] == "rows"
        yield pytest.param(*pair, marks=[pytest.mark.slow] * (not usual))


@pytest.mark.parametrize("importance, normalisation", list(pairs()))
def test_every_combination_ascends_the_energy_of_fixed_weights(
    importance, normalisation
):
    config = AlphaClConfig(importance=importance, normalisation=normalisation, rank=2)
    method = MethodBuilder(config, make)(3)
    rows = UNIT.reshape(8, 3)
    squared = 1 - rows @ rows.T
    off_pairs = [[c for c in range(8) if c not in (r, (r + 4) % 8)] for r in range(8)]
    distances = np.stack([squared[r, columns] for r, columns in enumerate(off_pairs)])
    weights = np.asarray(jax.jit(importance_of(config))(np.float32(distances)))
    assert np.isfinite(weights).all()
    want = np.mean(
        [
            np.sum(weights[r] * (squared[r, (r + 4) % 8] - distances[r]))
            for r in range(8)
        ]
    )
    (loss, _), gradient = with_gradient(method, TABLE)
    np.testing.assert_allclose(loss, want, rtol=1e-3, atol=1e-5)
    assert float(jnp.abs(gradient).max()) > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_trained_by_the_mean_of_its_loss_over_images(family):
    settings = {"temperature": 0.4, "margin": 0.3, "epsilon": 0.7, "scale": 1.5}
    theirs = accepted(FAMILIES[family], settings)
    method = methods.alpha_cl(family=family, **settings)(3)
    (loss, _), gradient = with_gradient(method, TABLE)

    @jax.jit
    @jax.value_and_grad
    def whole(table):
        return losses.family_loss(*table, FAMILIES[family](**theirs))

    want, want_gradient = whole(TABLE)
    np.testing.assert_allclose(loss, want / 4, rtol=1e-5)
    np.testing.assert_allclose(gradient, want_gradient / 4, rtol=1e-5, atol=1e-6)
    assert family in method.description


def test_weights_need_not_be_constants():
    settings = {"importance": "quadratic", "normalisation": "rows", "power": 3.0}
    config = AlphaClConfig(**settings)
    (held, _), fixed = with_gradient(methods.alpha_cl(**settings)(3), TABLE)
    method = methods.alpha_cl(constant_weights=False, **settings)(3)
    (loss, _), gradient = with_gradient(method, TABLE)
    assert float(loss) == float(held)

    @jax.jit
    @jax.grad
    def through(table):
        return losses.alpha_cl_loss(
            *table, importance=importance_of(config), constant_weights=False
        )

    np.testing.assert_allclose(gradient, through(TABLE), rtol=1e-4, atol=1e-6)
    assert np.abs(gradient - fixed).max() > 1e-2


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"family": "quadruplet"},
            "family: expected one of none, info_nce, mine, triplet, soft_triplet, "
            "tuplet, lifted_structured, modified_triplet, triplet_contrastive, got "
            "'quadruplet'",
        ),
        (
            {"family": "triplet", "importance": "uniform"},
            "importance: expected 'exponential' with family 'triplet', which reads "
            "none, got 'uniform'",
        ),
        (
            {"family": "mine", "constant_weights": False},
            "constant_weights: expected True with family 'mine', which reads none, got "
            "False",
        ),
        (
            {"importance": "infonce", "constant_weights": False},
            "constant_weights: expected True with importance 'infonce', whose loss "
            "states no weights, got False",
        ),
        ({"margin": -1}, "margin: expected a number in [0, inf), got -1.0"),
        ({"scale": 0}, "scale: expected a number in (0, inf), got 0.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError) as caught:
        AlphaClConfig(**settings)
    assert str(caught.value) == message


def test_names_that_are_no_importance_are_refused():
    with pytest.raises(
        ConfigError, match="importance: expected one of exponential, inv"
    ):
        AlphaClConfig(importance="direct")
    with pytest.raises(ConfigError, match="normalisation: expected one of rows, none"):
        AlphaClConfig(normalisation="columns")
