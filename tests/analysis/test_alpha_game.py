"""The identity of the gradients, layer by layer, and the game in turns."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax import losses
from caco_jax.analysis import alpha_game, importance, snapshots
from tests.runs import tiny


class Deep(nn.Module):
    """Small layers of each kind, in seven steps."""

    @nn.compact
    def __call__(self, images, *, train):
        for width in (3, 4):
            images = nn.Conv(width, (3, 3), strides=2, use_bias=False)(images)
            norm = nn.BatchNorm(use_running_average=not train)
            images = nn.relu(norm(images))
        hidden = nn.relu(nn.Dense(6)(images.reshape(len(images), -1)))
        return nn.Dense(4)(nn.relu(nn.Dense(5)(hidden)))


FAMILIES = {name: make() for name, make in losses.FAMILIES.items()}
TOLERANCES = {jnp.float32: 1e-4, jnp.float64: 1e-9}


@pytest.mark.parametrize(
    "dtype", [pytest.param(jnp.float32, marks=pytest.mark.slow), jnp.float64]
)
def test_each_loss_descends_where_its_energy_ascends_in_every_layer(dtype):
    run = tiny.run().replace(encoder=Deep())
    with jax.enable_x64(dtype == jnp.float64):
        network = snapshots.cast(run.new_network(), dtype)
        encode = snapshots.make_embed(run.encoder, network.stats, dtype=dtype)
        batch = snapshots.draw_batch(run, size=8, dtype=dtype)

        def embed(params):
            return tuple(encode(params, view) for view in batch.views)

        assert {z.dtype for z in embed(network.params)} == {jnp.dtype(dtype)}
        errors = alpha_game.identity_errors(embed, network.params, FAMILIES)
    assert set(errors) == set(losses.FAMILIES)
    layers = len(jax.tree.leaves(network.params))
    for member, by_layer in errors.items():
        assert len(by_layer) == layers > 10
        assert max(by_layer.values()) <= TOLERANCES[dtype], member


@pytest.fixture(scope="module")
def linear():
    """A linear encoder, its parameters, two views of ten images."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x1 = jnp.asarray(rng.standard_normal((10, 6)))
        x2 = x1 + 0.1 * jnp.asarray(rng.standard_normal((10, 6)))
        params = {"w": jnp.asarray(rng.standard_normal((6, 3)))}
        yield lambda p: tuple(losses.l2_normalize(x @ p["w"]) for x in (x1, x2)), params


@pytest.mark.parametrize("name", FAMILIES)
def test_importance_by_definition_is_the_pairwise_importance(linear, name):
    embed, params = linear
    with jax.enable_x64(True):
        z1, z2 = embed(params)
        got = alpha_game.importance_by_definition(z1, z2, FAMILIES[name])
        want = losses.pairwise_importance(z1, z2, FAMILIES[name])
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_the_errors_see_a_wrong_layer():
    want = {"a": jnp.asarray([1.0, -2.0]), "b": {"c": jnp.zeros(2)}}
    got = {"a": jnp.asarray([1.0, -1.5]), "b": {"c": jnp.asarray([0.0, 0.1])}}
    assert alpha_game.relative_errors(got, want) == pytest.approx(
        {"a": 0.25, "b/c": 0.1}
    )


def test_the_min_players_answer_to_infonce_is_its_importance(linear):
    """min_α E_α - τ H(α) over rows on the simplex is -L, at α = φ'ψ'."""
    embed, params = linear
    tau = 0.5
    with jax.enable_x64(True):
        z1, z2 = embed(params)
        family = losses.FAMILIES["info_nce"](temperature=tau, epsilon=0.0)

        def payoff(alpha):
            logs = jnp.log(jnp.where(alpha > 0, alpha, 1))
            return losses.contrastive_energy(z1, z2, alpha) + tau * jnp.sum(
                alpha * logs
            )

        best = losses.pairwise_importance(z1, z2, family)
        np.testing.assert_allclose(best.sum(axis=1), 1)
        value = payoff(best)
        np.testing.assert_allclose(value, -losses.family_loss(z1, z2, family))
        for other in importance.SHAPES:
            rule = losses.row_normalised(importance.SHAPES[other](0.4))
            assert payoff(importance.pair_weights(z1, rule)) > value


def test_an_answer_after_every_move_is_descent_on_the_loss(linear):
    embed, params = linear
    family = FAMILIES["info_nce"]
    with jax.enable_x64(True):
        curves = {
            turn: alpha_game.descend_in_turns(
                embed, params, family, rate=0.3, steps=12, turn=turn
            )
            for turn in (None, 1, 4)
        }
        z1, z2 = embed(params)
        start = float(losses.family_loss(z1, z2, family)) / 10
    assert {len(curve) for curve in curves.values()} == {13}
    np.testing.assert_allclose(curves[1], curves[None], rtol=1e-12)
    np.testing.assert_allclose([c[0] for c in curves.values()], start, rtol=1e-12)
    # Held weights: the first move is the same, the second is not.
    np.testing.assert_allclose(curves[4][1], curves[None][1], rtol=1e-12)
    assert abs(curves[4][2] - curves[None][2]) > 1e-6
    assert curves[None][-1] < curves[None][0]


def test_turns_below_one_are_refused(linear):
    with pytest.raises(ValueError, match="at least one step and turn, got 3 and 0"):
        alpha_game.descend_in_turns(
            *linear, FAMILIES["mine"], rate=0.1, steps=3, turn=0
        )
