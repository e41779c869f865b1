"""Reading a compiled program's text."""

import jax
import jax.numpy as jnp
import pytest

from caco_jax.pod import hlo
from caco_jax.pod.hlo import Leaf
from tests.pod.fixtures import JOINED, SPREAD


@pytest.mark.parametrize(
    ("shape", "leaves", "size"),
    [
        ("f32[8,256]{1,0:T(8,128)}", [Leaf("f32", (8, 256))], 8192),
        ("bf16[3]{0:T(256)(128)(2,1)S(1)}", [Leaf("bf16", (3,), 1)], 6),
        ("pred[]{:T(512)S(6)}", [Leaf("pred", (), 6)], 1),
        ("s4[10]", [Leaf("s4", (10,))], 5),
        ("f8e4m3fn[7]{0}", [Leaf("f8e4m3fn", (7,))], 7),
        ("token[]", [Leaf("token", ())], 0),
        (
            "(s32[], /*index=1*/f64[2,2]{1,0})",
            [Leaf("s32", ()), Leaf("f64", (2, 2))],
            36,
        ),
    ],
)
def test_shapes(shape, leaves, size):
    assert list(hlo.leaves(shape)) == leaves
    assert hlo.total_bytes(leaves) == size


def test_a_program_is_taken_apart():
    program = hlo.parse(JOINED)
    assert (program.entry, program.num_partitions) == ("main", 16)
    assert list(program.computations) == ["add", "turn", "more", "main"]
    joined = program.computations["main"]["joined"]
    assert joined.opcode == "all-reduce"
    assert joined.operands == ("moments", "made", "grad", "made")
    assert [leaf.num_bytes for leaf in joined.leaves] == [256, 256, 18, 4]
    assert [leaf.space for leaf in joined.leaves] == [1, 0, 0, 0]
    assert joined.called == ("add",)
    assert joined.op_name.endswith("batchnorm/reduce_sum")
    assert program.computations["main"]["second"].op_name == ""


def test_a_text_without_a_program():
    with pytest.raises(
        ValueError, match="expected the text of an HLO module, got one wit"
    ):
        hlo.parse("HloModule nothing\n")


def test_how_often_computations_run():
    program = hlo.parse(JOINED)
    assert hlo.executions(program) == {"add": 3, "turn": 3, "more": 0, "main": 1}
    assert hlo.executions(hlo.parse(SPREAD))["piece1"] == 1


@pytest.mark.parametrize(
    ("old", "new", "turns"),
    [
        ("constant(3)", "constant(12)", 12),
        ("condition=%more", 'condition=%more, x={"known_trip_count":{"n":"5"}}', 5),
        ("constant(3)", "parameter(1)", None),
        ("condition=%more, ", "", None),
    ],
)
def test_turns_of_a_loop(old, new, turns):
    program = hlo.parse(JOINED.replace(old, new))
    loop = program.computations["main"]["loop"]
    assert hlo.trip_count(program, loop) == turns
    assert hlo.executions(program)["turn"] == (turns or 1)


def test_where_an_array_comes_from():
    program = hlo.parse(JOINED)
    main = program.computations["main"]
    assert hlo.origin(program, main, "second").endswith("batchnorm/reduce_sum")
    assert hlo.origin(program, main, "zero") == ""
    assert hlo.origin(program, main, "absent") == ""
    fused = hlo.parse(SPREAD)
    entry = fused.computations["main"]
    assert hlo.origin(fused, entry, "f1") == "jit(step)/jvp(payoff)/stack"


def test_what_this_jax_prints_is_understood():
    def sums(x):
        return jax.lax.fori_loop(0, 7, lambda i, y: y @ x + i, x)

    compiled = jax.jit(sums).lower(jnp.ones((4, 4))).compile()
    program = hlo.parse(compiled.as_text())
    loops = [
        hlo.trip_count(program, instruction)
        for computation in program.computations.values()
        for instruction in computation.values()
        if instruction.opcode == "while"
    ]
    assert loops == [7]
