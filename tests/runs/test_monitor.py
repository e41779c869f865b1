"""When each alarm rings, and what it says."""

import math

import pytest

from caco_jax.runs.monitor import find_alarms

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
