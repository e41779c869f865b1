"""Collectives of compiled programs: kind, size, count and part of the step."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from caco_jax.pod import collectives, hlo
from caco_jax.pod.parts import PARTS, part_of
from caco_jax.training.sharding import make_mesh
from tests.pod.fixtures import JOINED, SPREAD


def found(text):
    return collectives.find(hlo.parse(text))


def by_kind(text, kind):
    return [one for one in found(text) if one.kind == kind]


def test_joined_arrays_are_told_apart():
    joined = by_kind(JOINED, "all-reduce")
    assert [(one.part, one.dtype, one.dims) for one in joined] == [
        ("batchnorm", "f32", (64,)),
        ("game", "f32", (64,)),  # not named where it is taken apart: by its operand
        ("encoder gradient", "bf16", (3, 3)),
        ("game", "f32", ()),
    ]
    assert {one.instruction for one in joined} == {"joined"}
    assert [one.payload_bytes for one in joined] == [256, 256, 18, 4]
    assert joined[0].sent_bytes == 2 * 256 * 15 / 16


def test_collectives_in_loops_count_each_turn():
    looped, last = by_kind(JOINED, "all-gather")
    assert (looped.part, looped.times, looped.group) == ("views", 3, 16)
    assert looped.payload_bytes == 3 * 64 * 256 * 4
    assert looped.sent_bytes == pytest.approx(3 * 64 * 256 * 4 * 15 / 16)
    assert (last.part, last.times, last.group) == ("other", 1, 8)


def test_a_scattered_array_is_counted_whole():
    (one,) = by_kind(JOINED, "reduce-scatter")
    assert (one.dims, one.group, one.part) == ((16, 256), 4, "game")
    assert one.sent_bytes == 16 * 256 * 4 * 3 / 4


def test_a_shift_sends_all_that_there_is():
    (one,) = by_kind(JOINED, "collective-permute")
    assert (one.part, one.sent_bytes) == ("optimizer", 4 * 256 * 4)


def test_a_device_alone_exchanges_nothing():
    assert "alone" not in {one.instruction for one in found(JOINED)}


def test_pieces_of_a_spread_collective_count_once():
    (one,) = found(SPREAD)
    assert (one.dims, one.group, one.part) == ((1024, 2, 256), 16, "game")
    apart = SPREAD.replace('chain_id="0"', 'other="0"')
    assert len(found(apart)) == 3


def test_a_fused_sum_and_slice_is_a_scatter():
    text = SPREAD.replace("all-gather(", "all-reduce(")
    assert found(text)[0].kind == "all-reduce"
    (one,) = found(text.replace("%piece", "%all-reduce-scatter"))
    assert (one.kind, one.dims) == ("reduce-scatter", (1024, 2, 256))


@pytest.mark.parametrize(
    ("opcode", "shape", "dims"),
    [
        ("all-gather-start", "(f32[4], f32[64])", (64,)),
        ("collective-permute-start", "(f32[4], f32[4], u32[], u32[])", (4,)),
        ("all-reduce-start", "f32[4]", (4,)),
    ],
)
def test_what_begins_a_collective_gives_its_result(opcode, shape, dims):
    text = (
        "HloModule m, num_partitions=16\n\nENTRY %main (x: f32[4]) -> f32[4] {\n"
        "  %x = f32[4] parameter(0)\n"
        f"  ROOT %one = {shape} {opcode}(%x), channel_id=1\n}}\n"
    )
    (one,) = found(text)
    assert (one.dims, one.group) == (dims, 16)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1,2},{3,4,5}}, x", 3),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", 2),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", 4),
        ("replica_groups=mesh['a'=2,'b'=4] {'a', 'b'}, x", 8),
        ("replica_groups={}, x", 8),
        ("channel_id=1", 8),
    ],
)
def test_group_sizes(groups, size):
    assert collectives.group_size(groups, 8) == size


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        ("jit(f)/jvp(payoff)/Encoder/bn1/batchnorm/mean", "batchnorm"),
        ("jit(f)/transpose(jvp(payoff))/Encoder/bn1/batchnorm/mul", "batchnorm"),
        ("jit(f)/jvp(payoff)/Encoder/conv1/conv", "encoder"),
        ("jit(f)/transpose(jvp(payoff))/Encoder/conv1/conv", "encoder gradient"),
        ("jit(f)/jvp(payoff)/shard_map/psum", "game"),
        ("jit(f)/transpose(jvp(payoff))/shard_map/while", "game"),
        ("jit(f)/views/vmap()/mul", "views"),
        ("jit(f)/optimizer/sqrt", "optimizer"),
        ("jit(f)/add", "other"),
        ("", "other"),
    ],
)
def test_parts(op_name, part):
    assert part_of(op_name) == part
    assert part in PARTS


def known_exchanges(x):
    """On each of 8 devices, with x [4, 6]: one of each kind, one of them in a loop."""
    everywhere = jax.lax.all_gather(x, "data", tiled=True)  # [32, 6]
    scattered = jax.lax.psum_scatter(everywhere, "data", tiled=True)  # [4, 6]
    shift = [(i, (i + 1) % 8) for i in range(8)]
    y = jax.lax.fori_loop(
        0, 5, lambda _, y: jax.lax.ppermute(y, "data", shift), scattered
    )
    return y + jax.lax.psum(x, "data")


def test_a_real_program_of_eight_devices(devices):
    mesh = make_mesh(devices)
    spread = jax.shard_map(
        known_exchanges, mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    compiled = jax.jit(spread).lower(jnp.zeros((32, 6))).compile()
    seen = found(compiled.as_text())
    payload = dict.fromkeys((one.kind for one in seen), 0)
    for one in seen:
        payload[one.kind] += one.payload_bytes
    assert payload == {
        "all-gather": 32 * 6 * 4,
        "reduce-scatter": 32 * 6 * 4,
        "collective-permute": 5 * 4 * 6 * 4,
        "all-reduce": 4 * 6 * 4,
    }
    assert {one.group for one in seen if one.kind != "collective-permute"} == {8}


def test_named_scopes_reach_the_compiled_program(devices):
    mesh = make_mesh(devices)

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=(P(), P())
    )
    def sums(x):
        with jax.named_scope("payoff"):
            first = jax.lax.psum(x, "data")
        with jax.named_scope("optimizer"):
            return first, jax.lax.psum(first * x, "data")

    compiled = jax.jit(sums).lower(jnp.zeros(8)).compile()
    sent = collectives.sent_by_part(found(compiled.as_text()))
    assert {part for part, size in sent.items() if size} == {"game", "optimizer"}
