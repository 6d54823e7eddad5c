"""XLA flags to compile quickly with: tests compile more than they run."""

from jaxlib import version

FLAGS = "--xla_backend_optimization_level=0"
if version.__version_info__ < (0, 11):  # which no longer knows it
  FLAGS += " --xla_cpu_use_fusion_emitters=false"
