"""How tests compile: fast, since the suite compiles far longer than it computes."""

import importlib.metadata

# Without fusion emitters a step compiles twice as fast; XLA has no others since 0.11.
_OLD_EMITTERS = " --xla_cpu_use_fusion_emitters=false"
_VERSION = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
FAST_COMPILING = "--xla_backend_optimization_level=0" + (
    _OLD_EMITTERS if _VERSION < (0, 11) else ""
)
