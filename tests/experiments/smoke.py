"""A benchmark as a person runs it, shrunk."""

import json
import os
import pathlib
import subprocess
import sys

import jax

from tests.compiling import FAST_COMPILING

ROOT = pathlib.Path(__file__).resolve().parents[2]


def smoke(name, out, *flags):
    """The figures that it wrote into a file, and what it printed; "" is all of them."""
    module = f"experiments.benchmarks.{name}".rstrip(".")
    done = subprocess.run(
        [
            *(sys.executable, "-m", module),
            *("--smoke", f"--out={out}", *flags),
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
            "XLA_FLAGS": FAST_COMPILING,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout
