"""What is chosen for the user: devices for cores, and how a loop is run."""

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

COUNT = """
import jax, os, sys
from rnnjax.training import device_mesh
device_mesh.use_cpu_cores_as_devices(int(sys.argv[1]))
print(jax.device_count(), os.environ["NPROC"])
"""


def device_and_thread_counts(batch, flags="", threads=None):
  """How many devices a fresh interpreter has for a batch, and how many threads XLA gets."""
  environment = {name: value for name, value in os.environ.items() if name != "NPROC"}
  environment |= {"XLA_FLAGS": flags} | ({"NPROC": threads} if threads else {})
  arguments = [sys.executable, "-c", COUNT, str(batch)]
  run = subprocess.run(arguments, env=environment, check=True, capture_output=True)
  return tuple(map(int, run.stdout.split()))


def device_count(*args):
  return device_and_thread_counts(*args)[0]


def test_device_count_divides_batch_unless_xla_flags_set():
  """A batch of 7 rows cannot be shared by 2 to 6 cores; one of 64 can; XLA_FLAGS win."""
  cores = len(os.sched_getaffinity(0))
  assert device_count(7) in (1, 7)
  assert 64 % device_count(64) == 0 and device_count(64) > cores / 2
  flags = "--xla_force_host_platform_device_count=3"
  assert device_and_thread_counts(64, flags, threads="5") == (3, 5)


def test_two_threads_per_device_unless_nproc_set():
  """So that one is left for the device that all others wait for; a given number stays."""
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
  """Gates are saved where they are few or dear to compute, and wherever memory is not fresh; chunks
  have 512 rows and divide T."""
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), shape[-1]))
  for kept in (False, True):
    monkeypatch.setattr(malloc, "malloc_tuned", kept)
    made = choose_options(cell, params, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert made == expected._replace(save_gates=expected.save_gates or kept)


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
  """Only a linear cell with few numbers a step takes all steps at once."""
  params, xs = cell.init(jax.random.key(0), shape[-1]), jnp.zeros(shape)
  why = backend_status(cell, params, xs)
  assert select_backend(cell, params, xs, lambda name: not why[name]) == expected


@pytest.mark.parametrize(
  "rounds, unable, expected",
  [
    (0.5, "", "triton"),
    (3.9, "", "deferred"),
    (1, "triton", "deferred"),
    (1, "triton deferred", "scan"),
  ],
)
def test_triton_selected_only_for_few_rounds_of_programs(monkeypatch, rounds, unable, expected):
  """What was not measured to pay is not taken, though it could run."""
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(triton_tiling, "num_waves", lambda cell, params, xs: rounds)
  able = lambda name: name not in unable.split()
  assert select_backend(lstm(4), {}, jnp.zeros((5, 64, 3)), able) == expected
