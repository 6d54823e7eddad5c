"""Tests of the modules that `import rnnjax` and a loop on a CPU load, in a fresh interpreter."""

import json
import os
import subprocess
import sys

SCRIPT = """
import json, sys
import jax, jax.numpy as jnp
import rnnjax

def loaded(prefix="rnnjax.backends."):
  return sorted(name.removeprefix(prefix) for name in sys.modules if name.startswith(prefix))

modules = {"import": loaded()}
for cell in (rnnjax.lstm(256), rnnjax.lru(32)):
  params, xs = cell.init(jax.random.key(0), 3), jnp.ones((5, 2, 3))
  jax.grad(lambda params: rnnjax.unroll(cell, params, xs)[1].sum())(params)
modules["unroll"] = loaded()
small_cell = rnnjax.mingru(4)
rnnjax.unroll(small_cell, small_cell.init(jax.random.key(0), 3), xs)
modules["small linear cell"] = loaded()
modules["foreign"] = loaded("experiments") + loaded("jax.experimental.pallas")
print(json.dumps(modules))
"""


def test_cpu_unroll_loads_only_the_selected_backend():
  """The import loads none; then `deferred` is loaded, and `associative` for a small linear cell."""
  command, env = [sys.executable, "-c", SCRIPT], os.environ | {"JAX_PLATFORMS": "cpu"}
  result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
  modules = json.loads(result.stdout)
  assert modules["import"] == ["interface", "select"]
  assert modules["unroll"] == ["deferred", "interface", "malloc", "select"]
  assert set(modules["small linear cell"]) - set(modules["unroll"]) == {
    "associative",
    "linear_scan",
  }
  assert modules["foreign"] == []
