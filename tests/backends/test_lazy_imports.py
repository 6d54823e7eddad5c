"""Modules that `import rnnjax` and a loop on a CPU load, in a fresh interpreter."""

import subprocess
import sys

SCRIPT = """
import sys
import jax, jax.numpy as jnp
import rnnjax

def loaded(prefix):
  return sorted(name.removeprefix(prefix) for name in sys.modules if name.startswith(prefix))

print(loaded("rnnjax.backends."))
for cell in (rnnjax.lstm(256), rnnjax.lru(32)):
  params, xs = cell.init(jax.random.key(0), 3), jnp.ones((5, 2, 3))
  jax.grad(lambda params: rnnjax.unroll(cell, params, xs)[1].sum())(params)
print(loaded("rnnjax.backends."))
print(loaded("experiments") + loaded("jax.experimental.pallas"))
rnnjax.unroll(rnnjax.mingru(4), rnnjax.mingru(4).init(jax.random.key(0), 3), xs)
print(loaded("rnnjax.backends."))
"""


def test_cpu_unroll_loads_only_the_selected_backend():
  """On import none; then `deferred` alone, and `associative` for a small linear cell."""
  command = [sys.executable, "-c", SCRIPT]
  env = {"JAX_PLATFORMS": "cpu", "PATH": ""}
  result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
  imported, after_unroll, foreign, after_linear = map(eval, result.stdout.splitlines())
  assert imported == ["base", "select"]
  assert after_unroll == ["base", "deferred", "malloc", "select"]
  assert foreign == []
  assert set(after_linear) - set(after_unroll) == {"associative", "linear_scan"}
