"""How tests compile: fast, since the suite compiles far longer than it computes."""

import importlib.metadata

FAST_COMPILING = "--xla_backend_optimization_level=0"
# Without fusion emitters a step compiles twice as fast. XLA ends where it does not know
# a flag, as that of 0.12 does not: so the version that is known to have it alone.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FAST_COMPILING += " --xla_cpu_use_fusion_emitters=false"
