"""Predicted times, by hand."""

import pytest

from caco_jax.pod import roofline
from caco_jax.pod.collectives import Collective
from caco_jax.pod.topology import CHIPS
from caco_jax.pod.work import Work

V5E, V4 = CHIPS["v5e"], CHIPS["v4"]
SUM = Collective("all-reduce", "game", "f32", (1_000_000,), 16, 1, "one", "")


@pytest.mark.parametrize(
    ("chip", "shape", "links", "hops"),
    [
        (V5E, (4, 4), 2, 6),  # two axes, neither a ring: one neighbour each way
        (V5E, (8, 16), 3, 7 + 8),
        (V5E, (16, 16), 4, 16),
        (V5E, (1, 1), 0, 0),
        (V4, (2, 2, 1), 2, 2),
        (V4, (4, 4, 4), 6, 6),
        (V4, (4, 4, 8), 6, 8),
    ],
)
def test_links_and_hops(chip, shape, links, hops):
    assert roofline.slice_bandwidth(chip, shape) == links * chip.link_bandwidth
    assert roofline.span(chip, shape) == hops


def test_terms_by_hand():
    done = Work(flops=1.0, pass_flops=197e12, hbm_bytes=0.5 * 819e9)
    terms = roofline.predict(done, [SUM], V5E, (4, 4))
    assert terms.arithmetic == pytest.approx(1.0)
    assert terms.hbm == pytest.approx(0.5)
    # A sum goes around twice: 2 * 4 MB * 15/16 through 100 GB/s.
    assert terms.interconnect == pytest.approx(7.5e6 / 100e9)
    assert terms.latency == pytest.approx(2 * 6 * 1e-6)
    assert terms.step == pytest.approx(1 + 7.5e-5 + 1.2e-5)
    assert terms.limit == "arithmetic"


def test_arrays_that_share_an_instruction_wait_once():
    together = roofline.predict(Work(), [SUM, SUM], V5E, (4, 4))
    apart = roofline.predict(
        Work(), [SUM, SUM._replace(instruction="two")], V5E, (4, 4)
    )
    assert apart.latency == 2 * together.latency
    assert apart.interconnect == together.interconnect
    assert apart.limit == "interconnect"


def test_a_loop_waits_every_turn():
    terms = roofline.predict(Work(), [SUM._replace(times=5)], V5E, (16, 16))
    assert terms.latency == pytest.approx(5 * 2 * 16 * 1e-6)


def test_one_chip_has_nobody_to_talk_to():
    terms = roofline.predict(Work(1.0, 1.0, 1.0), [], V5E, (1, 1))
    assert (terms.interconnect, terms.latency) == (0, 0)
