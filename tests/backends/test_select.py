"""Tests of automatic choices: devices for CPU cores, the backend, and the options of `deferred`."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from rnnjax import backend_status, gru, lru, lstm, mingru
from rnnjax.backends import malloc
from rnnjax.backends.deferred import DeferredOptions, choose_options
from rnnjax.backends.pallas import triton_tiling
from rnnjax.backends.select import select_backend

COUNT_DEVICES = """
import jax, os, sys
from rnnjax.training import device_mesh
device_mesh.use_cpu_cores_as_devices(int(sys.argv[1]))
print(jax.device_count(), os.environ["NPROC"])
"""


def device_and_thread_counts(batch, flags="", threads=None):
  """Return the number of devices and of XLA threads of a fresh interpreter, for a batch size."""
  environment = {name: value for name, value in os.environ.items() if name != "NPROC"}
  environment |= {"XLA_FLAGS": flags} | ({"NPROC": threads} if threads else {})
  arguments = [sys.executable, "-c", COUNT_DEVICES, str(batch)]
  run = subprocess.run(arguments, env=environment, check=True, capture_output=True)
  return tuple(map(int, run.stdout.split()))


def device_count(*args):
  return device_and_thread_counts(*args)[0]


def test_device_count_divides_batch_unless_xla_flags_set():
  """7 rows cannot be divided among 2 to 6 cores, 64 can; XLA_FLAGS take precedence."""
  cores = len(os.sched_getaffinity(0))
  assert device_count(7) in (1, 7)
  assert 64 % device_count(64) == 0 and device_count(64) > cores / 2
  flags = "--xla_force_host_platform_device_count=3"
  assert device_and_thread_counts(64, flags, threads="5") == (3, 5)


def test_two_threads_per_device_unless_nproc_set():
  """The default is two threads a core; NPROC takes precedence."""
  assert device_and_thread_counts(64)[1] == 2 * len(os.sched_getaffinity(0))
  assert device_and_thread_counts(64, threads="5")[1] == 5


@pytest.mark.parametrize(
  "cell, shape, expected",
  [
    (lstm(100), (600, 64, 32), DeferredOptions(save_gates=False, chunk_size=8)),
    (gru(128), (250, 64, 35), DeferredOptions(save_gates=False, chunk_size=10)),
    (lstm(128), (200, 32, 128), DeferredOptions(save_gates=True, chunk_size=20)),
    (lstm(512), (100, 64, 512), DeferredOptions(save_gates=True, chunk_size=10)),
    (lstm(650), (35, 20, 650), DeferredOptions(save_gates=True, chunk_size=None)),
    (lstm(4), (7, 3), DeferredOptions(save_gates=True, chunk_size=None)),
  ],
)
def test_choose_options_matches_measured_best(cell, shape, expected, monkeypatch):
  """Gates are saved if they are small or expensive to compute, or if malloc is tuned.

  Chunks have 512 rows or more and divide T.
  """
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), shape[-1]))
  for malloc_tuned in (False, True):
    monkeypatch.setattr(malloc, "malloc_tuned", malloc_tuned)
    options = choose_options(cell, params, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert options == expected._replace(save_gates=expected.save_gates or malloc_tuned)


@pytest.mark.parametrize(
  "cell, shape, expected",
  [
    (mingru(16), (10_000, 1, 8), "associative"),
    (lru(8), (1000, 2, 8), "associative"),
    (mingru(17), (10_000, 1, 8), "deferred"),
    (lru(16), (1000, 2, 8), "deferred"),
    (gru(4), (1000, 1, 8), "deferred"),
  ],
)
def test_associative_backend_only_for_small_linear_states(cell, shape, expected):
  """`associative` is selected for linear cells with B·H ≤ 16 only."""
  params, xs = cell.init(jax.random.key(0), shape[-1]), jnp.zeros(shape)
  reasons = backend_status(cell, params, xs)
  assert select_backend(cell, params, xs, lambda name: not reasons[name]) == expected


@pytest.mark.parametrize(
  "num_waves, unavailable, expected",
  [
    (0.5, "", "triton"),
    (3.9, "", "deferred"),
    (1, "triton", "deferred"),
    (1, "triton deferred", "scan"),
  ],
)
def test_triton_selected_only_for_few_waves_of_programs(
  monkeypatch, num_waves, unavailable, expected
):
  """On a GPU `triton` is selected only if its programs fill the chip at most twice."""
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(triton_tiling, "num_waves", lambda cell, params, xs: num_waves)

  def is_available(name):
    return name not in unavailable.split()

  assert select_backend(lstm(4), {}, jnp.zeros((5, 64, 3)), is_available) == expected
