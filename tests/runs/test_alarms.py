"""When each alarm rings, and what it says."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caco_jax.runs.monitor import NonFiniteError, check_finite, find_alarms

HEALTHY = {"embedding_std": 0.9, "cross_entropy": 1.0, "bank_used_ever": 0.8}
K = 1024
LN_K = math.log(K)


def alarms(epoch=10, candidates=K, **metrics):
    return find_alarms(epoch, {**HEALTHY, **metrics}, candidates=candidates)


def test_a_healthy_epoch_rings_nothing():
    assert alarms() == {}
    assert find_alarms(10, {}, candidates=None) == {}


@pytest.mark.parametrize("epoch", [1, 10])
def test_collapse_rings_at_once(epoch):
    assert alarms(epoch, embedding_std=0.0499) == {
        "collapsed": "the embeddings have collapsed: their scaled standard deviation "
        "is 0.050, 1 is spread out, 0 a single point"
    }
    assert alarms(epoch, embedding_std=0.0501) == {}


@pytest.mark.parametrize(
    "share, rings", [(0.989, 0), (0.991, 1), (1.009, 1), (1.011, 0)]
)
def test_chance_rings_within_a_hundredth_of_the_level(share, rings):
    found = alarms(cross_entropy=share * LN_K)
    assert set(found) == ({"at_chance"} if rings else set())


def test_chance_names_both_numbers():
    assert alarms(cross_entropy=6.93)["at_chance"] == (
        "the cross entropy sits at 6.930, the logarithm of the number of candidates "
        "(6.931): nothing is being learned"
    )


def test_there_is_no_chance_without_a_level_or_an_entropy():
    assert alarms(cross_entropy=LN_K, candidates=None) == {}
    without = {"embedding_std": 0.9}
    assert find_alarms(10, without, candidates=K) == {}


def test_an_unused_bank_rings_below_its_share():
    assert alarms(bank_used_ever=0.0199) == {
        "bank_unused": "only 2.0% of the bank's entries were ever a positive: the bank "
        "is larger than it need be, or not learning"
    }
    assert alarms(bank_used_ever=0.0201) == {}


@pytest.mark.parametrize("trouble", [{"cross_entropy": LN_K}, {"bank_used_ever": 0.0}])
def test_a_young_run_is_given_time(trouble):
    assert alarms(9, **trouble) == {}
    assert len(alarms(10, **trouble)) == 1


def test_alarms_ring_together():
    found = alarms(embedding_std=0, cross_entropy=LN_K, bank_used_ever=0)
    assert set(found) == {"collapsed", "at_chance", "bank_unused"}


def test_finite_metrics_pass():
    check_finite(3, {"loss": np.asarray([1.0, 2.0]), "empty": np.zeros(0)})


@settings(derandomize=True)
@given(
    first=st.integers(0, 1000),
    offset=st.integers(0, 4),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_the_first_bad_step_and_its_metric_are_named(first, offset, value):
    metrics = {name: np.ones(5, np.float32) for name in ("accuracy", "loss", "spread")}
    metrics["loss"][offset:] = value
    metrics["accuracy"][offset + 1 :] = np.nan
    with pytest.raises(NonFiniteError) as caught:
        check_finite(first, metrics)
    error = caught.value
    assert (error.step, error.metric) == (first + offset, "loss")
    assert str(error) == (
        f"step {first + offset}: loss is {value}; nothing was saved yet. "
        "Lower the learning rate or raise the temperature"
    )


def test_of_two_bad_metrics_of_a_step_the_first_by_name_is_told():
    bad = np.asarray([np.nan])
    with pytest.raises(NonFiniteError, match=r"^step 0: accuracy is nan"):
        check_finite(0, {"loss": bad, "accuracy": bad})


def test_it_is_an_arithmetic_error_of_pythons_own():
    with pytest.raises(FloatingPointError):
        check_finite(0, {"loss": np.asarray([np.inf])})


def test_players_are_named_with_the_metric_of_the_step_that_broke_them():
    finite = {"encoder": np.array([True, False]), "bank": np.array([True, False])}
    loss = np.array([0.5, np.nan])
    with pytest.raises(NonFiniteError) as caught:
        check_finite(7, {"loss": loss}, finite, phase="start-up step")
    caught.value.kept_step = 4
    assert str(caught.value) == (
        "start-up step 8: loss is nan; bank, encoder no longer finite; the checkpoint "
        "of step 4 is kept. Lower the learning rate or raise the temperature"
    )


def test_a_player_breaks_before_the_metrics_show_it():
    finite = {"encoder": np.array([True, True]), "bank": np.array([False, False])}
    with pytest.raises(NonFiniteError, match=r"^step 3: bank no longer finite; ") as c:
        check_finite(3, {"loss": np.array([0.5, np.nan])}, finite)
    assert (c.value.step, c.value.metric, c.value.players) == (3, None, ("bank",))
