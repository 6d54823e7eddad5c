"""Strictness for all tests: four devices, warnings are errors, no accidental broadcasting."""

import os

from tests import xla_flags

# Four devices on one processor.
os.environ["XLA_FLAGS"] = (
  f"{os.environ.get('XLA_FLAGS', '')} {xla_flags.FLAGS} --xla_force_host_platform_device_count=4"
)

# Two XLA threads a device: with one, all may wait for a device whose work finds no thread.
os.environ.setdefault("NPROC", "8")

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "warn")

WARNINGS = (
  "error",
  # A vector of features may meet the last axis, as in x W + b; every other promotion is an error.
  r"ignore:.*rank promotion for (add|multiply) on shapes \(.*, (\d+)\) \(\2,\)\.",
  r"ignore:.*rank promotion for (add|multiply) on shapes \((\d+),\) \(.*, \2\)\.",
  # orbax ends with the first array that cannot be read; tensorstore then tells it of the others.
  "ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning",
)


def pytest_configure(config):
  for line in WARNINGS:
    config.addinivalue_line("filterwarnings", line)


@pytest.fixture
def float64():
  """The test computes in float64."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(autouse=True, scope="module")
def _clear_jax_caches():
  """Each compiled program holds memory maps, of which a process may have 65,530 on Linux."""
  yield
  jax.clear_caches()
