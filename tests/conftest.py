"""Settings that the whole suite shares."""

import os
import pathlib
import tempfile

from tests.compiling import FAST_COMPILING

# Before JAX is imported: eight virtual devices, so that one process tests 1 and 8. CI
# runs the core of the suite once more as XLA usually compiles; of a flag given twice
# the last counts.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count=8 {FAST_COMPILING} "
    + os.environ.get("XLA_FLAGS", "")
)

import jax
import pytest

CACHE = pathlib.Path(
    os.environ.get(
        "JAX_COMPILATION_CACHE_DIR",
        pathlib.Path(tempfile.gettempdir()) / "caco_jax_tests_xla",
    )
)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
# Everything is kept: modules, workers and the next run compile nothing twice.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def devices():
    """Eight virtual CPU devices."""
    found = jax.devices()
    assert len(found) == 8, "the suite needs eight virtual devices"
    return found


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """A worker that kept every module's programs would grow to gigabytes."""
    yield
    jax.clear_caches()
