"""Fine-tuning moves what it is told to, and learns."""

import dataclasses

import jax
import numpy as np
import pytest

from caco_jax.evaluation import fine_tune, sweep
from caco_jax.evaluation.heads import head_scores
from caco_jax.schema import ConfigError
from tests.evaluation.frozen import (
    ENCODER,
    LABELS,
    VIEWS,
    frozen_network,
    network,
    part,
)

PLAN = fine_tune.FineTuning(0.05, 0.5, batch_size=16, epochs=6)


def tune(plan=PLAN, rows=None, **options):
    rows = np.arange(len(LABELS)) if rows is None else rows
    return fine_tune.fine_tune(
        ENCODER,
        VIEWS,
        network(),
        part(),
        rows,
        plan,
        num_classes=3,
        **options,
    )


def moved(before, after):
    """Which top-level entries differ."""
    return {
        name
        for name in before
        if any(
            (np.asarray(one) != np.asarray(other)).any()
            for one, other in zip(
                jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True
            )
        )
    }


@pytest.fixture(scope="module")
def tuned():
    return tune()


def test_it_learns_the_set_and_all_of_the_backbone_moves(tuned):
    assert tuned.losses.shape == (18,)
    assert tuned.losses[0] == pytest.approx(np.log(3), abs=0.1)
    frozen = frozen_network()._replace(network=tuned.network)
    ((features, labels),) = sweep.part_features(frozen, part())
    scores = np.asarray(head_scores(tuned.head, features))[:, 0]
    assert (scores.argmax(axis=1) == labels).mean() > 0.95
    assert moved(network().params, tuned.network.params) == {"hidden", "norm"}
    assert moved(network().stats, tuned.network.stats) == {"norm"}


def test_the_callers_network_is_still_there(tuned):
    assert np.isfinite(network().params["hidden"]["kernel"]).all()
    np.testing.assert_array_equal(tuned.losses, tune().losses)


def test_frozen_layers_and_statistics_stay():
    plan = dataclasses.replace(
        PLAN, frozen=("hidden",), frozen_statistics=True, weight_decay=0.1
    )
    after = tune(plan)
    assert moved(network().params, after.network.params) == {"norm"}
    assert moved(network().stats, after.network.stats) == set()


def test_a_backbone_without_a_rate_is_a_linear_probe():
    plan = dataclasses.replace(PLAN, backbone_rate=0.0, frozen_statistics=True)
    after = tune(plan)
    assert moved(network().params, after.network.params) == set()
    assert after.losses[-1] < after.losses[0]


def test_few_labels_make_one_small_batch():
    assert tune(rows=np.array([0, 1, 2])).losses.shape == (6,)


def test_bad_plans():
    with pytest.raises(ValueError, match="frozen: expected some of hidden, norm, got"):
        tune(dataclasses.replace(PLAN, frozen=("hidden", "layer9")))
    with pytest.raises(ConfigError, match="head_rate: expected a number in"):
        fine_tune.FineTuning(head_rate=0.0)
    with pytest.raises(
        ValueError, match="layer_decay: expected 1 for a network without"
    ):
        tune(dataclasses.replace(PLAN, layer_decay=0.5))


def test_rates_decay_from_the_last_block_of_a_vit_to_its_patches():
    """Ones as the gradient and no momentum: a step is as long as the rate."""
    plan = dataclasses.replace(PLAN, layer_decay=0.5, momentum=0.0, frozen=("frozen",))
    names = ("patches", "cls_token", "blocks_0", "blocks_1", "norm", "frozen")
    backbone = {name: np.zeros(2, np.float32) for name in names}
    trained = {
        "encoder": {"backbone": backbone, "projector": {"norm": np.zeros(2)}},
        "head": np.zeros(2, np.float32),
    }
    optimizer = fine_tune._optimizer(plan, steps_per_epoch=3, blocks=2)
    ones = jax.tree.map(np.ones_like, trained)
    updates, _ = optimizer.update(ones, optimizer.init(trained), trained)
    found = {name: -float(u[0]) for name, u in updates["encoder"]["backbone"].items()}
    rate = plan.backbone_rate
    assert found == pytest.approx(
        {
            "patches": rate / 4,
            "cls_token": rate / 4,
            "blocks_0": rate / 2,
            "blocks_1": rate,
            "norm": rate,
            "frozen": 0.0,
        }
    )
    assert -float(updates["head"][0]) == pytest.approx(plan.head_rate)
    assert not updates["encoder"]["projector"]["norm"].any()
