"""The sweep on a frozen network: heads that are chosen by rows they never saw."""

import jax
import numpy as np
import pytest

from caco_jax.data.labelled import ArrayPart
from caco_jax.data.view_kinds import PlainView, Views
from caco_jax.data.views import make_views
from caco_jax.evaluation import heads, plans, sweep
from caco_jax.evaluation.features import make_view_features
from tests.evaluation.frozen import ENCODER, IMAGES, LABELS, frozen_network, part


@pytest.fixture(scope="module")
def frozen():
    return frozen_network()


PROTOCOL = heads.Protocol("sgd", (1e-4, 0.5), (0.0, 0.01), batch_size=8, epochs=10)


def test_the_backbone_is_seen_once_and_stays(frozen):
    swept = sweep.sweep_heads(frozen, part(), PROTOCOL, num_classes=3, held_out=0.25)
    assert [s.learning_rate for s in swept.settings] == [1e-4, 0.5, 1e-4, 0.5]
    assert swept.held_out.shape == (4,)
    assert swept.settings[swept.chosen].learning_rate == 0.5
    assert swept.held_out[swept.chosen] == swept.held_out.max() == 1
    assert swept.best.weights.shape[0] == 1
    scores, labels = sweep.collect_scores(
        swept.best, sweep.part_features(frozen, part())
    )
    np.testing.assert_array_equal(labels, LABELS)
    assert (scores.argmax(axis=1) == labels).mean() > 0.9
    every = sweep.head_accuracies(swept.heads, sweep.part_features(frozen, part()))
    assert every[swept.chosen] == (scores.argmax(axis=1) == labels).mean()


def test_one_setting_is_trained_on_everything(frozen):
    protocol = heads.Protocol("sgd", (0.5,), batch_size=8, epochs=10)
    swept = sweep.sweep_heads(frozen, part(), protocol, num_classes=3)
    assert (swept.held_out, swept.chosen) == (None, 0)
    settings, alone = sweep.train_heads(
        frozen, part(), np.arange(len(LABELS)), protocol, num_classes=3, seed=0
    )
    assert settings == swept.settings
    np.testing.assert_array_equal(alone.weights, swept.heads.weights)


def test_the_same_seed_gives_the_same_heads(frozen):
    first, again, other = (
        sweep.sweep_heads(frozen, part(), PROTOCOL, num_classes=3, seed=seed).heads
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.weights, again.weights)
    assert (np.asarray(first.weights) != np.asarray(other.weights)).any()


def test_views_are_drawn_anew_at_every_step(frozen):
    keys = []

    def views(key, pixels):
        keys.append(key)  # traced: one entry a compilation
        return make_views(Views((PlainView(),)))(key, pixels)

    watched = frozen._replace(view_features=make_view_features(ENCODER, views))
    protocol = heads.Protocol("sgd", (0.5,), batch_size=8, epochs=2)
    sweep.sweep_heads(watched, part(), protocol, num_classes=3)
    assert len(keys) == 2  # for the shapes and for the step, however many steps


def test_clean_features_are_made_once_and_learned_from(frozen):
    def no_views(*_):
        raise AssertionError("augmented")

    seen = []

    def center_features(network, images):
        seen.append(len(images))
        return frozen.center_features(network, images)

    watched = frozen._replace(view_features=no_views, center_features=center_features)
    protocol = heads.Protocol(
        "adam", (0.05,), batch_size=8, epochs=9, schedule="constant", augment=False
    )
    rows = np.arange(0, 48, 2)
    _, found = sweep.train_heads(watched, part(), rows, protocol, num_classes=3, seed=0)
    assert len(seen) == 1
    features, labels = next(sweep.part_features(frozen, part(), rows))
    # The same heads from the features themselves.
    sides = ArrayPart(features, labels)
    trainer = heads.Sweep(protocol, steps_per_epoch=3)
    init_key, _ = jax.random.split(jax.random.key(0))
    state = trainer.init(init_key, features=features.shape[1], num_classes=3)
    order = {"seed": 0, "batch_size": 8, "epochs": 9}
    step = jax.jit(trainer.step)
    with sides.batches(np.arange(24), **order) as batches:
        for batch in batches:
            state, _ = step(state, *batch)
    np.testing.assert_allclose(found.weights, trainer.heads(state).weights, rtol=1e-5)
    pieces = sweep.part_features(frozen, part())
    assert sweep.head_accuracies(found, pieces)[0] > 0.9


def test_fewer_images_than_a_batch_scale_the_rates_along():
    protocol = sweep.fitted(plans.PRESETS["caco"], 1024)
    assert (protocol.batch_size, protocol.learning_rates) == (1024, (0.1,))
    assert sweep.fitted(plans.PRESETS["moco"], 10**6) == plans.PRESETS["moco"]
    few = sweep.fitted(plans.PRESETS["clae"], 100)  # Adam's steps are as long
    assert (few.batch_size, few.learning_rates) == (100, (3e-4,))


def test_heads_that_all_diverge_are_an_error_and_one_is_passed_over(frozen):
    wild = heads.Protocol("sgd", (1e37, 1e38), (1.0,), batch_size=8, epochs=3)
    with pytest.raises(FloatingPointError, match="all 2 heads diverged; lower the"):
        sweep.sweep_heads(frozen, part(), wild, num_classes=3)
    mixed = heads.Protocol("sgd", (1e37, 0.5), (1.0,), batch_size=8, epochs=3)
    swept = sweep.sweep_heads(frozen, part(), mixed, num_classes=3)
    assert np.isnan(swept.held_out[0])
    assert swept.chosen == 1


def test_nothing_left_to_train_on(frozen):
    few = ArrayPart(IMAGES[:3], np.arange(3, dtype=np.int32))
    with pytest.raises(ValueError, match=r"held_out: expected images left .* got 0\.5"):
        sweep.sweep_heads(frozen, few, PROTOCOL, num_classes=3, held_out=0.5)
