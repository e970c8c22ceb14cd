"""XLA flags of the tests, which compile much and compute little; for before JAX is imported."""

from importlib.metadata import version

FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if version("jaxlib").startswith("0.10."):  # others may not know it, which would end the process
    # half the time to compile or less, and a tenth of it: of parts that others compile beside it
    FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
