"""Arithmetic and memory traffic, against counts by hand and by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.pod import hlo, work


def compiled(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return hlo.parse(jax.jit(function).lower(*arguments).compile().as_text())


def written(line, *operands):
    """A program of one instruction."""
    parameters = "".join(
        f"  %p{i} = {shape} parameter({i})\n" for i, shape in enumerate(operands)
    )
    entry = f"ENTRY %main () -> f32[] {{\n{parameters}  ROOT %out = {line}\n}}"
    return hlo.parse(f"HloModule m\n\n{entry}")


def total(program):
    return sum(work.count(program).values(), start=work.Work())


def conv_by_hand(size, kernel, stride, pad, spread):
    """Pairs of a place of the kernel and one of the image, along one axis."""
    dilated = (size - 1) * spread + 1
    out = (dilated + 2 * pad - kernel) // stride + 1
    pairs = 0
    for position in range(out):
        for tap in range(kernel):
            place = position * stride + tap - pad
            pairs += 0 <= place < dilated and place % spread == 0
    return out, pairs


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "spread"),
    [
        (8, 3, 1, 1, 1),
        (9, 3, 2, 1, 1),
        (7, 7, 2, 3, 1),
        (5, 3, 1, 1, 2),
        (4, 1, 1, 0, 1),
    ],
)
def test_convolutions_count_what_meets(size, kernel, stride, pad, spread):
    out, pairs = conv_by_hand(size, kernel, stride, pad, spread)
    window = f"size={kernel}x1 stride={stride}x1 pad={pad}_{pad}x0_0"
    window += f" lhs_dilate={spread}x1"
    line = (
        f"f32[2,{out},6,16]{{3,2,1,0}} convolution(%p0, %p1), "
        f"window={{{window}}}, dim_labels=b01f_01io->b01f"
    )
    program = written(line, f"f32[2,{size},6,4]", f"f32[{kernel},1,4,16]")
    assert total(program).flops == 2 * 2 * 16 * 4 * 6 * pairs


def test_products_take_more_passes_for_more_digits():
    line = "f32[8,32] convolution(%p0, %p1), dim_labels=bf_io->bf"
    shapes = ("f32[8,64]", "f32[64,32]")
    once = total(written(line, *shapes))
    assert once.flops == once.pass_flops == 2 * 8 * 64 * 32
    for precision, passes in (("default", 1), ("high", 3), ("highest", 6)):
        attribute = f", operand_precision={{{precision},{precision}}}"
        done = total(written(line + attribute, *shapes))
        assert done.flops == once.flops
        assert done.pass_flops == passes * once.flops


def test_a_batch_as_a_window_is_no_more_than_a_batch():
    # How XLA writes a batched product for a TPU.
    line = (
        "f32[5,8,32] convolution(%p0, %p1), window={size=5 stride=4 pad=0_0 "
        "lhs_dilate=5}, dim_labels=0bf_0io->0bf"
    )
    program = written(line, "f32[5,8,64]", "f32[5,64,32]")
    assert total(program).flops == 5 * 2 * 8 * 64 * 32


def test_products_in_loops_count_each_turn():
    def powers(x, y):
        return jax.lax.fori_loop(0, 9, lambda _, y: jnp.tanh(x @ y), y)

    program = compiled(powers, (32, 32), (32, 48))
    assert total(program).flops == 9 * 2 * 32 * 32 * 48


def test_traffic_of_main_memory_alone():
    shapes = ("f32[8,128]{1,0}", "f32[8,128]{1,0:T(8,128)S(1)}")
    far = total(written("f32[8,128]{1,0} add(%p0, %p0)", *shapes))
    near = total(written("f32[8,128]{1,0:T(8,128)S(1)} add(%p1, %p1)", *shapes))
    fetched = total(written("f32[8,128]{1,0:S(1)} copy(%p0)", *shapes))
    assert (far.hbm_bytes, near.hbm_bytes, fetched.hbm_bytes) == (3 * 4096, 0, 4096)


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        ("(f32[64]{0:S(1)}, f32[64]{0}, u32[]{:S(2)}) copy-start(%p0)", 256),
        ("(f32[64]{0}, f32[64]{0}, u32[]{:S(2)}) copy-start(%p0)", 512),
        ("(f32[64]{0}, f32[16]{0:S(1)}, s32[]{:S(2)}) slice-start(%p0)", 64),
        ("f32[16]{0} slice(%p0), slice={[0:16]}", 128),
        ("f32[64]{0} bitcast(%p0)", 0),
    ],
)
def test_copies_and_slices_move_what_they_take(line, moved):
    assert total(written(line, "f32[64]{0}")).hbm_bytes == moved


FUSED = """\
HloModule m

%inner (bank: f32[4096,256], new: f32[8,256], at: s32[]) -> f32[4096,256] {
  %bank = f32[4096,256] parameter(0)
  %new = f32[8,256] parameter(1)
  %at = s32[] parameter(2)
  %zero = s32[] constant(0)
  %part = f32[8,256] dynamic-slice(%bank, %at, %zero), dynamic_slice_sizes={8,256}
  %both = f32[8,256] add(%part, %new)
  ROOT %put = f32[4096,256] dynamic-update-slice(%bank, %both, %at, %zero)
}

ENTRY %main (a: f32[4096,256], b: f32[8,256], c: s32[]) -> f32[4096,256] {
  %a = f32[4096,256] parameter(0)
  %b = f32[8,256] parameter(1)
  %c = s32[] parameter(2)
  ROOT %out = f32[4096,256] fusion(%a, %b, %c), kind=kLoop, calls=%inner
}
"""


def test_a_row_updated_in_place_is_no_whole_bank():
    rows = 8 * 256 * 4
    assert total(hlo.parse(FUSED)).hbm_bytes == 3 * rows + 4


def test_a_plain_program_by_hand():
    program = compiled(lambda x, y: x @ y, (16, 32), (32, 64))
    done = total(program)
    assert done.flops == done.pass_flops == 2 * 16 * 32 * 64
    assert done.hbm_bytes == 4 * np.sum([16 * 32, 32 * 64, 16 * 64])


SLICED = """\
HloModule m

%inner (crops: u8[8,64,64], at: s32[]) -> f32[1,64,64] {
  %crops = u8[8,64,64] parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  %turned = u8[8,64,64] bitcast(%crops)
  %part = u8[1,64,64] dynamic-slice(%turned, %at, %zero, %zero), \
dynamic_slice_sizes={1,64,64}
  ROOT %wide = f32[1,64,64] convert(%part)
}

ENTRY %main (a: u8[8,64,64], b: s32[]) -> f32[1,64,64] {
  %a = u8[8,64,64] parameter(0)
  %b = s32[] parameter(1)
  ROOT %out = f32[1,64,64] fusion(%a, %b), kind=kLoop, calls=%inner
}
"""


def test_a_slice_of_an_array_in_another_order_is_no_whole_array():
    assert total(hlo.parse(SLICED)).hbm_bytes == 64 * 64 * (1 + 4) + 4


def test_what_is_put_into_an_array_is_read():
    program = FUSED.replace("%both = f32[8,256] add(%part, %new)\n", "").replace(
        "%both", "%new"
    )
    assert total(hlo.parse(program)).hbm_bytes == 3 * 8 * 256 * 4 + 4
