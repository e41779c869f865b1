"""Programs whose traffic is known, compiled for a TPU: prints what is read of each.

The arrays are larger than a chip's fast memory, so that they have to be moved.
"""

import json

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from caco_jax.pod import hlo, work
from caco_jax.pod.compile import compile_lowered
from caco_jax.pod.topology import open_slice

N, ROWS, WIDTH = 16_384, 524_288, 512
WIDE, SQUARE = N * N * 4, WIDTH * WIDTH * 2
PROGRAMS = {
    "copy": (lambda x: x.T, [(N, N)], jnp.float32, 2 * WIDE),
    "matmul": (
        lambda x, y: x @ y,
        [(ROWS, WIDTH), (WIDTH, WIDTH)],
        jnp.bfloat16,
        2 * ROWS * WIDTH * 2 + SQUARE,
    ),
    "fused reduction": (
        lambda x, y: jnp.square(jnp.maximum(x * y, 0)).sum(0),
        [(N, N), (N, N)],
        jnp.float32,
        2 * WIDE + N * 4,
    ),
}


def main() -> None:
    """Prints {program: [bytes read from its text, bytes known]} as JSON."""
    where = open_slice("v5e:2x2")
    place = SingleDeviceSharding(where.devices[0])
    found = {}
    for name, (function, shapes, dtype, known) in PROGRAMS.items():
        given = [jax.ShapeDtypeStruct(s, dtype, sharding=place) for s in shapes]
        compiled = compile_lowered(
            lambda f=function, given=given: jax.jit(f).lower(*given), where
        )
        done = work.count(hlo.parse(compiled.text)).values()
        found[name] = [sum(part.hbm_bytes for part in done), known]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
