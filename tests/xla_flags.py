"""XLA flags for fast compilation: tests spend more time compiling than running."""

from jaxlib import version

FLAGS = "--xla_backend_optimization_level=0"
if (0, 10) <= version.__version_info__ < (0, 11):  # other versions may reject these flags
  FLAGS += (
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE"
    " --xla_cpu_parallel_codegen_split_count=1"
  )
