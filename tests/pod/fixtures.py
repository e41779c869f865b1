"""Optimised programs as XLA prints them for a TPU, cut down to a few lines."""

# A joined all-reduce taken apart by name, and a loop of 3 turns that gathers.
JOINED = """\
HloModule jit_step, is_scheduled=true, num_partitions=16

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%turn (carry: (s32[], f32[4,256])) -> (s32[], f32[4,256]) {
  %carry = (s32[]{:T(128)}, f32[4,256]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %x = f32[4,256]{1,0:T(8,128)} get-tuple-element(%carry), index=1
  %gathered = f32[64,256]{1,0:T(8,128)} all-gather(%x), channel_id=1, \
replica_groups=mesh['data'=16] {'data'}, dimensions={0}, \
metadata={op_name="jit(step)/views/all_gather" stack_frame_id=3}
  ROOT %next = (s32[]{:T(128)}, f32[4,256]{1,0:T(8,128)}) tuple(%i, %x)
}

%more (carry.1: (s32[], f32[4,256])) -> pred[] {
  %carry.1 = (s32[]{:T(128)}, f32[4,256]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  %turns = s32[]{:T(128)} constant(3)
  ROOT %less = pred[]{:T(512)} compare(%i.1, %turns), direction=LT
}

ENTRY %main (queries: f32[4,256], moments: f32[64], grad: bf16[3,3]) -> f32[64,256] {
  %queries = f32[4,256]{1,0:T(8,128)} parameter(0)
  %moments = f32[64]{0:T(128)} parameter(1)
  %grad = bf16[3,3]{1,0:T(8,128)(2,1)} parameter(2)
  %made = f32[64]{0:T(128)S(1)} copy(%moments), \
metadata={op_name="jit(step)/jvp(payoff)/shard_map/dot_general"}
  %joined = (f32[64]{0:T(128)S(1)}, f32[64]{0:T(128)}, bf16[3,3]{1,0:T(8,128)(2,1)}, \
/*index=3*/f32[]{:T(128)}) all-reduce(%moments, %made, %grad, /*index=3*/%made), \
channel_id=3, replica_groups=mesh['data'=16] {'data'}, to_apply=%add, \
metadata={op_name="jit(step)/jvp(payoff)/Encoder/bn1/batchnorm/reduce_sum"}
  %first = f32[64]{0:T(128)S(1)} get-tuple-element(%joined), index=0, \
metadata={op_name="jit(step)/jvp(payoff)/Encoder/bn1/batchnorm/reduce_sum"}
  %second = f32[64]{0:T(128)} get-tuple-element(%joined), index=1
  %third = bf16[3,3]{1,0:T(8,128)(2,1)} get-tuple-element(%joined), index=2, \
metadata={op_name="jit(step)/transpose(jvp(payoff))/Encoder/conv1/conv_general_dilated"}
  %zero = s32[]{:T(128)} constant(0)
  %begin = (s32[]{:T(128)}, f32[4,256]{1,0:T(8,128)}) tuple(%zero, %queries)
  %loop = (s32[]{:T(128)}, f32[4,256]{1,0:T(8,128)}) while(%begin), \
condition=%more, body=%turn
  %scattered = f32[4,256]{1,0:T(8,128)} reduce-scatter(%gather), channel_id=1, \
replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add, \
metadata={op_name="jit(step)/jvp(payoff)/shard_map/reduce_scatter"}
  %shifted = f32[4,256]{1,0:T(8,128)} collective-permute(%queries), channel_id=2, \
source_target_pairs={{0,1},{1,0}}, metadata={op_name="jit(step)/optimizer/ppermute"}
  %alone = f32[64]{0:T(128)} all-reduce(%moments), channel_id=9, \
replica_groups=[16,1]<=[16], to_apply=%add
  ROOT %gather = f32[64,256]{1,0:T(8,128)} all-gather(%queries), channel_id=7, \
replica_groups=[2,8]<=[16], dimensions={0}, metadata={op_name="jit(step)/other"}
}
"""

# One all-gather that XLA spread over the fusions beside it, as three pieces.
_PIECE = """\
%piece{n} (p{n}: f32[64,2,256]) -> f32[1024,2,256] {{
  %p{n} = f32[64,2,256]{{2,0,1:T(8,128)S(1)}} parameter(0)
  ROOT %gather{n} = f32[1024,2,256]{{2,0,1:T(8,128)}} all-gather(%p{n}), \
channel_id=222, replica_groups=mesh['data'=16] {{'data'}}, dimensions={{0}}, \
frontend_attributes={{chain_id="0"}}, metadata={{op_name="jit(step)/jvp(payoff)/stack"}}
}}

"""
_CALL = "  {root}%f{n} = f32[1024,2,256] fusion(%q), kind=kCustom, calls=%piece{n}\n"
SPREAD = (
    "HloModule jit_step, num_partitions=16\n\n"
    + "".join(_PIECE.format(n=n) for n in range(3))
    + "ENTRY %main (q: f32[64,2,256]) -> f32[1024,2,256] {\n"
    + "  %q = f32[64,2,256]{2,0,1:T(8,128)S(1)} parameter(0)\n"
    + "".join(_CALL.format(n=n, root="ROOT " if n == 2 else "") for n in range(3))
    + "}\n"
)
