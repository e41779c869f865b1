"""The figures of a run in progress: from the features alone, under their own names."""

import numpy as np
import pytest

from caco_jax.evaluation import health, linear, online
from tests.evaluation.digits import pixels


def test_the_head_is_a_probe_cut_short_and_the_rank_is_the_features():
    parts = tuple(part[:300] for part in pixels())
    found = online.online_metrics(*parts, num_classes=10)
    assert all(name.startswith("online_") for name in found)
    model = linear.fit_logistic_regression(
        *parts[:2], num_classes=10, max_iterations=online.MAX_ITERATIONS
    )
    assert found["online_linear"] == linear.accuracy(model, *parts[2:])
    assert found["online_linear"] > 0.8
    assert found["online_effective_rank"] == health.effective_rank(parts[2])
    assert found == online.online_metrics(*parts, num_classes=10)


def test_rows_of_one_class_have_no_head():
    features = np.eye(4, dtype=np.float32)
    ones = np.ones(4, int)
    found = online.online_metrics(features, ones, features, ones, num_classes=3)
    assert found["online_linear"] is None
    assert found["online_effective_rank"] == pytest.approx(4)
