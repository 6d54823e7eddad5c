"""What is chosen for the user: devices for cores, and chunks where they pay."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import gru, lstm, unroll
from rnnjax.unroll import chunk

COUNT = """
import jax, sys
from rnnjax.training import devices
devices.use_cores(int(sys.argv[1]))
print(jax.device_count())
"""


def count(batch, flags=""):
  """How many devices a fresh interpreter has for a batch."""
  environment = os.environ | {"XLA_FLAGS": flags}
  arguments = [sys.executable, "-c", COUNT, str(batch)]
  return int(subprocess.run(arguments, env=environment, check=True, capture_output=True).stdout)


def test_devices_divide_the_batch_and_a_given_number_stays():
  """A batch of 7 rows cannot be shared by 2 to 6 cores; one of 64 can; XLA_FLAGS win."""
  cores = len(os.sched_getaffinity(0))
  assert count(7) in (1, 7)
  assert 64 % count(64) == 0 and count(64) > cores / 2
  assert count(64, "--xla_force_host_platform_device_count=3") == 3


@pytest.mark.parametrize(
  "cell, shape, expected",
  [
    (lstm(100), (600, 64, 32), 50),
    (gru(128), (250, 64, 35), 50),
    (lstm(128), (200, 32, 128), None),
    (lstm(512), (100, 64, 512), None),
  ],
)
def test_chunks_are_chosen_by_shape(cell, shape, expected):
  """The measured cases: little saved, or large weights, and all is kept."""
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), shape[-1]))
  assert chunk(cell, params, jax.ShapeDtypeStruct(shape, jnp.float32)) == expected


def test_what_is_chosen_changes_no_result(monkeypatch):
  """`auto` in chunks equals `scan`, outputs and gradients, with lengths that end inside one."""
  cell, T, B, D = gru(16), 120, 4, 3
  monkeypatch.setitem(unroll.__globals__, "chunk", lambda *_: 50)
  params = cell.init(jax.random.key(0), D)
  xs = jax.random.normal(jax.random.key(1), (T, B, D))
  lengths = jnp.array([120, 51, 50, 0])

  def loss(params, xs, backend):
    (h,), ys = unroll(cell, params, xs, lengths, backend=backend)
    return (ys**2).sum() + h.sum()

  a, b = (jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)(params, xs, backend)
          for backend in ("auto", "scan"))  # fmt: skip
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), a, b)
