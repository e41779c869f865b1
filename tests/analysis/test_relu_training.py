"""Training two-layer networks, many at once, and the inputs they are trained on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.analysis import relu_training, two_layer_relu
from caco_jax.analysis.pairs import mixture_views
from caco_jax.analysis.relu_training import Setting
from caco_jax.analysis.two_layer_relu import TwoLayer


def test_views_are_one_direction_each_with_its_magnitude():
    x1, x2 = mixture_views(jax.random.key(5), count=400, directions=4)
    which = np.argmax(np.abs(x1), axis=1)
    assert np.count_nonzero(x1) == np.count_nonzero(x2) == 400
    np.testing.assert_array_equal(which, np.argmax(np.abs(x2), axis=1))
    for direction, size in enumerate((10, 7, 4, 1)):
        both = np.stack([x[which == direction, direction] for x in (x1, x2)])
        assert both.mean() == pytest.approx(size, abs=0.15)
        assert both.std() == pytest.approx(0.5, abs=0.1)
        assert abs(np.corrcoef(both)[0, 1]) < 0.4


SMALL = {"hidden": 5, "outputs": 4, "directions": 4, "batch_size": 24, "rate": 0.1}


@functools.cache
def trained(loss, batch_norm, seeds=16):
    setting = Setting(loss=loss, batch_norm=batch_norm, **SMALL)
    keys = jax.random.split(jax.random.key(2), 16)[:seeds]
    return relu_training.train(keys, setting, steps=400, records=4)


def test_networks_trained_at_once_are_those_trained_alone():
    many, few = trained("infonce", True), trained("infonce", True, seeds=2)
    np.testing.assert_array_equal(many.steps, [0, 100, 200, 300, 400])
    np.testing.assert_allclose(few.networks.first, many.networks.first[:2], atol=1e-4)
    np.testing.assert_allclose(few.inter, many.inter[:, :2], rtol=1e-2)
    assert many.concentrations.shape == many.ranks.shape == many.intra.shape == (5, 16)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("loss", ["infonce", "quadratic"])
def test_training_descends_and_keeps_first_weights_above_zero(loss, batch_norm):
    found = trained(loss, batch_norm)
    assert found.losses[-1].mean() < found.losses[0].mean() - 0.05
    assert float(found.networks.first.min()) >= 0
    np.testing.assert_allclose(
        found.coverages[-1],
        jax.vmap(two_layer_relu.coverage)(found.networks.first),
        rtol=1e-6,
    )


def test_with_batch_norm_infonce_concentrates_units_more_than_the_quadratic_loss():
    ours, theirs = (
        trained(loss, True).concentrations for loss in ("infonce", "quadratic")
    )
    assert ours[-1].mean() > ours[0].mean() + 0.1
    more = ours[-1] - theirs[-1]  # of the same seeds
    assert more.mean() > 3 * more.std() / len(more) ** 0.5


def test_batch_norm_makes_the_scale_of_units_irrelevant():
    rng = np.random.default_rng(0)
    network = TwoLayer(*(jnp.asarray(rng.uniform(size=s)) for s in ((3, 4), (2, 3))))
    louder = network._replace(first=network.first * jnp.asarray([[1.0], [7], [30]]))
    x = jnp.asarray(rng.uniform(1, 5, size=(50, 4)))
    normed = [
        relu_training.outputs_of(n, x, batch_norm=True) for n in (network, louder)
    ]
    np.testing.assert_allclose(*normed, atol=1e-3)
    np.testing.assert_allclose(normed[0].mean(axis=0), 0, atol=1e-5)
    plain = relu_training.outputs_of(network, x, batch_norm=False)
    np.testing.assert_allclose(plain, x @ network.first.T @ network.second.T, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "hidden: expected at least 1, got 0"),
        ({"batch_size": 1}, "one input has no negatives"),
        ({"temperature": 0.0}, "temperature: expected above 0, got 0.0"),
        ({"temperature": float("nan")}, "temperature: expected above 0, got nan"),
        ({"loss": "hinge"}, "expected one of infonce, quadratic, got 'hinge'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Setting(**change)


def test_training_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="at least one step and record, got 0, 20"):
        relu_training.train(jax.random.split(jax.random.key(0), 1), Setting(), steps=0)
