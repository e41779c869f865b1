"""Heads that train together are heads that train alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from caco_jax.evaluation import heads, plans
from caco_jax.optim import optimizers
from caco_jax.schema import ConfigError

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.standard_normal((6, 12, 5)).astype(np.float32)
LABELS = RANDOM.integers(0, 3, (6, 12))
RATES, DECAYS = (0.1, 1.0), (0.0, 0.05)


def trained(protocol, *, steps_per_epoch=2):
    sweep = heads.Sweep(protocol, steps_per_epoch=steps_per_epoch)
    state = sweep.init(jax.random.key(0), features=5, num_classes=3)
    step = jax.jit(sweep.step)
    losses = []
    for features, labels in zip(FEATURES, LABELS, strict=True):
        state, each = step(state, jnp.asarray(features), jnp.asarray(labels))
        losses.append(each)
    return sweep, sweep.heads(state), np.asarray(losses)


def alone(tx):
    """A head that optax trains by itself, in the plain layout."""
    weights = 0.01 * jax.random.normal(jax.random.key(0), (3, 5))
    params = {"weights": weights, "bias": jnp.zeros(3)}
    state, losses = tx.init(params), []

    def loss(params, features, labels):
        scores = features @ params["weights"].T + params["bias"][None]
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    for features, labels in zip(FEATURES, LABELS, strict=True):
        value, grad = jax.value_and_grad(loss)(params, features, labels)
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(value)
    return params, np.asarray(losses)


def adam(schedule, *, momentum, weight_decay):
    """Adam by optax alone; the decay is coupled."""
    decayed = optax.add_decayed_weights(weight_decay)
    return optax.chain(decayed, optax.adam(schedule, b1=momentum))


@pytest.mark.parametrize("name", ["sgd", "larc", "adam"])
def test_each_head_is_the_one_trained_alone(name):
    protocol = heads.Protocol(name, RATES, DECAYS, epochs=3, final_share=0.1)
    sweep, found, losses = trained(protocol)
    assert sweep.settings == [(0.1, 0.0), (1.0, 0.0), (0.1, 0.05), (1.0, 0.05)]
    make = {"sgd": optimizers.sgd, "larc": optimizers.larc_sgd, "adam": adam}[name]
    for h, (rate, decay) in enumerate(sweep.settings):

        def schedule(step, rate=rate):
            share = (1 + jnp.cos(jnp.pi * (step // 2) / 3)) / 2
            return rate * (0.1 + 0.9 * share)

        params, want = alone(make(schedule, momentum=0.9, weight_decay=decay))
        np.testing.assert_allclose(losses[:, h], want, rtol=1e-5)
        np.testing.assert_allclose(
            found.weights[h], params["weights"], rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(found.bias[h], params["bias"], rtol=1e-4, atol=1e-6)


def test_steps_take_a_tenth_at_each_milestone():
    protocol = heads.Protocol(
        "sgd", (0.5,), momentum=0.0, epochs=6, schedule="steps", milestones=(0.34, 0.67)
    )
    _, found, _ = trained(protocol, steps_per_epoch=1)
    rates = jnp.asarray([0.5, 0.5, 0.05, 0.05, 0.005, 0.005])
    tx = optimizers.sgd(lambda step: rates[step], momentum=0.0, weight_decay=0.0)
    params, _ = alone(tx)
    np.testing.assert_allclose(found.weights[0], params["weights"], rtol=1e-5)


def test_hits_and_a_head_that_diverged():
    weights = jnp.stack([jnp.eye(3), jnp.eye(3)[::-1], jnp.full((3, 3), jnp.nan)])
    group = heads.Heads(weights, jnp.zeros((3, 3)))
    features, labels = np.eye(3, dtype=np.float32), np.arange(3)
    found = np.asarray(heads.head_hits(group, features, labels))
    np.testing.assert_allclose(found, [3, 1, np.nan])
    np.testing.assert_array_equal(
        heads.head_scores(group, features)[:, 0], np.eye(3, dtype=np.float32)
    )


def test_everything_is_float64_where_that_is_asked_for():
    with jax.enable_x64(True):
        sweep = heads.Sweep(heads.Protocol(), steps_per_epoch=1)
        state = sweep.init(jax.random.key(0), features=5, num_classes=3)
        features = jnp.asarray(FEATURES[0], float)
        state, losses = jax.jit(sweep.step)(state, features, LABELS[0])
        dtypes = {leaf.dtype for leaf in jax.tree.leaves((state.groups, losses))}
    assert dtypes == {np.dtype(np.float64)}


def test_the_presets_are_the_papers():
    assert list(plans.PRESETS) == ["moco", "adco", "caco", "clae"]
    moco, adco, caco, clae = plans.PRESETS.values()
    for preset in (moco, adco, caco):
        assert (preset.epochs, preset.weight_decays) == (100, (0.0,))
        assert preset.augment
    assert (clae.optimizer, clae.learning_rates, clae.epochs) == ("adam", (3e-4,), 1000)
    assert (clae.weight_decays, clae.augment) == ((0.0,), False)
    assert {float(heads._schedule(clae, 5)(step)) for step in (0, 7, 4999)} == {1}
    assert (moco.optimizer, moco.learning_rates, moco.batch_size) == ("sgd", (30,), 256)
    assert (adco.optimizer, adco.learning_rates, adco.batch_size) == ("sgd", (10,), 256)
    assert (caco.optimizer, caco.batch_size) == ("larc", 4096)
    assert caco.learning_rates == (0.025 * 4096 / 256,)
    rates = heads._schedule(moco, 1)
    assert [float(rates(e)) for e in (0, 59, 60, 80)] == pytest.approx(
        [1, 1, 0.1, 0.01]
    )
    assert float(heads._schedule(adco, 1)(100)) * 10 == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"learning_rates": ()},
            r"learning_rates: expected different numbers, .* got \(\)",
        ),
        ({"weight_decays": (0.1, 0.1)}, "weight_decays: expected different numbers"),
        (
            {"learning_rates": (0.0,)},
            r"learning_rates: expected a number in \(0, inf\)",
        ),
        (
            {"optimizer": "lars"},
            "optimizer: expected one of sgd, larc, adam, got 'lars'",
        ),
        (
            {"schedule": "linear"},
            "schedule: expected one of cosine, steps, constant, got",
        ),
        ({"augment": 0}, "augment: expected bool, got 0"),
        ({"epochs": 0}, "epochs: expected a number in"),
    ],
)
def test_bad_protocols(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(plans.PRESETS["caco"], **change)
