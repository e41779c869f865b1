"""The least that a step moves, against counts by hand."""

import dataclasses

import jax

from caco_jax.config.build import build_run
from caco_jax.pod.floor import floor_of
from caco_jax.training.sharding import make_mesh
from tests.runs import tiny

N, HIDDEN, D, PIXELS = 16, 8, 4, 8 * 8


def floor(devices, method="caco", **changes):
    config = tiny.config(
        method,
        encoder__backbone="resnet_tiny",
        encoder__width=4,
        encoder__projector="mlp",
        encoder__projector_widths=(HIDDEN, D),
        **changes,
    )
    run = build_run(config, mesh=make_mesh(devices))
    return floor_of(run), run


# What the layers of `resnet_tiny` with a width of 4 read, in numbers an image. The stem
# leaves 2x2 pixels of 4 channels: for the first block's two convolutions, and for the
# second's first and its shortcut, which read the same. Then 1x1 of 8: the second's last
# and the third's first; then 1x1 of 16: the third's last, and the projector's first.
READ = 2 * 2 * 4 * 3 + 8 * 2 + 16 * 2 + HIDDEN


def test_activations_by_hand(devices):
    least, run = floor(devices[:1])
    # Two views, online five times, target twice; images written once, read by both.
    images = 2 * N * PIXELS * (1 + 2 + 1)
    assert least.activations == 4 * (2 * N * READ * (5 + 2) + images)
    assert least.examples == N * PIXELS
    state = run.state_shapes()
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert least.state == 2 * kept
    moved = jax.tree.leaves(state.players)
    assert least.gradients == 2 * sum(leaf.size * 4 for leaf in moved)
    assert least.total == sum(dataclasses.astuple(least))


def test_a_method_without_target_moves_less(devices):
    with_target, _ = floor(devices[:1])
    alone, _ = floor(devices[:1], "simclr")
    target = 2 * N * 4 * (2 * READ + PIXELS)
    assert with_target.activations - alone.activations == target


def test_chips_share_activations(devices):
    one, _ = floor(devices[:1])
    eight, _ = floor(devices)
    assert eight.activations == one.activations / 8
    assert eight.examples == one.examples / 8
    assert one.state / 8 < eight.state < one.state


def test_parts_of_a_batch_move_as_much(devices):
    whole, _ = floor(devices[:1])
    parts, _ = floor(devices[:1], training__microbatches=2)
    assert parts.activations == whole.activations


def test_half_the_digits_move_half(devices):
    wide, _ = floor(devices[:1])
    half, _ = floor(devices[:1], encoder__dtype="bfloat16")
    assert half.activations < 0.6 * wide.activations
