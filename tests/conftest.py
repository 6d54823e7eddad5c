"""Settings of all tests: four devices, warnings as errors, no accidental broadcasting."""

import os

from tests import xla_flags

# Four devices on one CPU.
os.environ["XLA_FLAGS"] = (
  f"{os.environ.get('XLA_FLAGS', '')} {xla_flags.FLAGS} --xla_force_host_platform_device_count=4"
)

# Two XLA threads a device: with one, devices can deadlock in an all-reduce (jaxlib 0.10.2).
os.environ.setdefault("NPROC", "8")

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "warn")

WARNINGS = (
  "error",
  # A vector of features may be broadcast, as in x W + b; every other rank promotion is an error.
  r"ignore:.*rank promotion for (add|multiply) on shapes \(.*, (\d+)\) \(\2,\)\.",
  r"ignore:.*rank promotion for (add|multiply) on shapes \((\d+),\) \(.*, \2\)\.",
  # Orbax stops at the first array that cannot be read; tensorstore then still reports the others.
  "ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning",
)


def pytest_configure(config):
  for line in WARNINGS:
    config.addinivalue_line("filterwarnings", line)


@pytest.fixture
def float64():
  """Run the test in float64."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(autouse=True, scope="module")
def _clear_jax_caches():
  """Clear compiled programs: each holds memory maps, and Linux allows 65,530 a process."""
  yield
  jax.clear_caches()
