"""When each alarm rings, and what it says."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from caco_jax.evaluation.bank_health import bank_figures, chance_cosine
from caco_jax.losses import adco_loss, l2_normalize
from caco_jax.optim.optimizers import ascend, sgd
from caco_jax.runs.alarms import find_alarms

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
        "is 0.050, 1 is spread out, 0 a single point; lower the learning rate, "
        "lengthen the warm-up, or raise target.momentum"
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
        "the cross entropy is 6.930, the logarithm of the number of candidates "
        "(6.931): the encoder learns nothing; check the augmented views, raise the "
        "learning rate, or lower the temperature"
    )


def test_there_is_no_chance_without_a_level_or_an_entropy():
    assert alarms(cross_entropy=LN_K, candidates=None) == {}
    without = {"embedding_std": 0.9}
    assert find_alarms(10, without, candidates=K) == {}


def test_an_unused_bank_rings_below_its_share():
    assert alarms(bank_used_ever=0.0199) == {
        "bank_unused": "only 2.0% of the bank's entries were ever a positive: the bank "
        "is too large or does not learn; lower method.bank_size, lengthen "
        "method.start_up_epochs, or raise bank_optimizer.learning_rate"
    }
    assert alarms(bank_used_ever=0.0201) == {}


@pytest.mark.parametrize("trouble", [{"cross_entropy": LN_K}, {"bank_used_ever": 0.0}])
def test_a_young_run_is_given_time(trouble):
    assert alarms(9, **trouble) == {}
    assert len(alarms(10, **trouble)) == 1


def test_alarms_ring_together():
    found = alarms(embedding_std=0, cross_entropy=LN_K, bank_used_ever=0)
    assert set(found) == {"collapsed", "at_chance", "bank_unused"}


def test_a_dead_bank_rings_from_the_second_epoch():
    assert alarms(1, bank_mass=0.02) == {}
    assert alarms(2, bank_mass=0.051) == {}
    assert alarms(2, bank_mass=0.02) == {
        "bank_dead": "the bank is dead: 2.0% of the softmax probability at its "
        "temperature is on its entries, the rest on the keys of the "
        "batch; lengthen method.start_up_epochs, raise "
        "method.bank_temperature or bank_optimizer.learning_rate, or "
        "lower bank_optimizer.weight_decay"
    }


def test_shrunken_rows_ring_at_once():
    assert alarms(1, bank_row_length=0.201) == {}
    assert alarms(1, bank_row_length=0.118) == {
        "bank_shrunk": "half of the bank's rows have a norm below 0.118, where a key "
        "has 1: weight decay shrinks rows without a gradient; lower "
        "bank_optimizer.weight_decay or raise method.bank_temperature"
    }


def test_a_bank_no_nearer_than_chance_rings_when_it_had_time():
    near = {"bank_cosine": 0.31, "bank_chance_cosine": 0.3}
    assert alarms(10, **near) == {}
    far = {**near, "bank_cosine": 0.29}
    assert alarms(9, **far) == {}
    assert alarms(10, **far) == {
        "bank_lost": "the bank has lost the queries: the cosine similarity of a query "
        "to its nearest entry is 0.290, to the nearest of as many random "
        "directions 0.300; lengthen method.start_up_epochs, or raise "
        "bank_optimizer.learning_rate or method.bank_temperature"
    }


ROWS, ENTRIES, DIM, CLASSES = 32, 256, 16, 32


def turning(drift):
    """A turn of the whole space, by about so many radians."""
    skew = np.random.default_rng(0).normal(size=(DIM, DIM))
    skew -= skew.T
    return expm(drift * skew / np.linalg.norm(skew) * DIM**0.5).astype(np.float32)


def drifting(key, centers):
    """Queries and keys of images of some classes, whose directions turn on."""
    chosen, *noises = jax.random.split(key, 3)
    of_rows = centers[jax.random.randint(chosen, (ROWS,), 0, CLASSES)]
    pair = (0.3 * DIM**-0.5 * jax.random.normal(n, of_rows.shape) for n in noises)
    return (*(l2_normalize(l2_normalize(of_rows) + noise) for noise in pair),)


@functools.partial(jax.jit, static_argnames="steps")
def played(bank_temperature, turn, *, steps):
    """AdCo's bank after some steps beside an encoder that turns, as figures.

    Its rate of 3 and decay of 1e-4 are the published ones.
    """
    keys = jax.random.split(jax.random.key(0), 3)
    centers = jax.random.normal(keys[0], (CLASSES, DIM))
    noise = 0.3 * jax.random.normal(keys[1], (ENTRIES, DIM))
    bank = l2_normalize(jnp.repeat(centers, ENTRIES // CLASSES, axis=0) + noise)
    optimizer = ascend(sgd(3.0, momentum=0.9, weight_decay=1e-4))

    def step(carry, key):
        bank, moving, centers = carry
        centers = centers @ turn
        queries, positives = drifting(key, centers)
        how = {"temperature": 0.12, "bank_temperature": bank_temperature}
        ascent, aux = jax.grad(
            lambda bank: adco_loss(queries, positives, bank, **how), has_aux=True
        )(bank)
        updates, moving = optimizer.update(ascent, moving, bank)
        return (bank + updates, moving, centers), aux.batch_probability.mean()

    start = (bank, optimizer.init(bank), centers)
    (bank, _, centers), on_keys = jax.lax.scan(
        step, start, jax.random.split(keys[2], steps)
    )
    queries, _ = drifting(keys[0], centers)
    found = bank_figures(queries, bank, temperature=bank_temperature)
    return {**found, "bank_mass": 1 - on_keys[-20:].mean()}, 1 - on_keys[0]


def test_a_bank_that_is_left_behind_rings_and_one_that_follows_does_not():
    chance = {"bank_chance_cosine": chance_cosine(ENTRIES, DIM)}
    # The published temperature beside an encoder that turns fast.
    left, begun = played(0.02, turning(0.05), steps=300)
    assert begun > 0.5  # it was alive at the first step
    assert "bank_dead" in find_alarms(2, {**left, **chance}, candidates=None)
    assert left["bank_dead_share"] > 0.3
    follows, _ = played(0.12, turning(0.005), steps=300)
    assert follows["bank_mass"] > 0.8
    assert find_alarms(20, {**follows, **chance}, candidates=None) == {}
