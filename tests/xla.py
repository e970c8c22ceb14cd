"""XLA flags of the tests, which compile much and compute little; for before JAX is imported."""

from importlib.metadata import version

FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if version("jaxlib").startswith("0.10."):  # others may not know it, which would end the process
    FLAGS += " --xla_cpu_use_fusion_emitters=false"  # half the time to compile or less
