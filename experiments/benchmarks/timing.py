"""Compilation, timing and comparison of RNN implementations."""

import contextlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import peers
from rnnjax.cells.base import Cell
from rnnjax.training import device_mesh, sharding
from rnnjax.unroll import unroll_bidirectional


def time_call(fn: Callable[[], object]) -> float:
  """Return the duration of the call fn() in seconds."""
  start = time.perf_counter()
  fn()
  return time.perf_counter() - start


def compile_passes(apply_fn: Callable, params, xs, num_compiles: int = 3) -> tuple[dict, dict]:
  """Compile ys = apply_fn(params, xs), and the gradient of Σ ys² with respect to params and xs.

  Args:
    apply_fn: the function to compile.
    params: the first argument of `apply_fn`.
    xs: the second argument of `apply_fn`.
    num_compiles: the number of timed compilations; 0 for none.

  Returns:
    functions: {"forward": run, "both": run}, functions without arguments; "both" runs the forward
      and the backward pass.
    stats: {"devices": number of devices, "compile_s": seconds, "MiB": temporary memory, "bytes":
      memory traffic, i.e. arguments, results and twice the temporary memory (written and read)}.
  """

  def new_gradient():
    # Each call returns a new function, because jax caches the trace of a function.
    return jax.grad(lambda params, xs: (apply_fn(params, xs) ** 2).sum(), (0, 1))

  def compile_fn(f):
    return jax.jit(f).lower(params, xs).compile()

  compiled = {"forward": compile_fn(apply_fn), "both": compile_fn(new_gradient())}
  times = [time_call(lambda: compile_fn(new_gradient())) for _ in range(num_compiles)]
  memory, num_devices = compiled["both"].memory_analysis(), len(xs.sharding.device_set)
  num_bytes = (
    memory.argument_size_in_bytes + memory.output_size_in_bytes + 2 * memory.temp_size_in_bytes
  )
  functions = {
    name: lambda f=f: jax.block_until_ready(f(params, xs)) for name, f in compiled.items()
  }
  stats = {
    "devices": num_devices,
    "MiB": num_devices * memory.temp_size_in_bytes / 2**20,
    "bytes": num_devices * num_bytes,
  }
  if times:
    stats["compile_s"] = min(times)
  return functions, stats


def compile_all(cell: str, shape: tuple[int, ...], names) -> dict:
  """Compile each named implementation that is installed and supports the cell.

  Args:
    cell: the name of the cell.
    shape: (B, T, D, H).
    names: the names of the implementations to compile.

  Returns:
    {(name, number of devices): (functions, stats)}, with the results of `compile_passes`.
  """
  B, T, D, H = shape
  xs = jax.random.normal(jax.random.key(0), (T, B, D))
  compiled, mesh = {}, device_mesh.make_mesh()
  # On a GPU, several threads compile at the same time, so compilation is not timed.
  num_compiles = 3 if jax.default_backend() == "cpu" else 0
  for name, make in peers.JAX_IMPLEMENTATIONS.items():
    if name not in names:
      continue
    try:
      apply_fn, params = make(cell, xs, H)
    except (ImportError, KeyError):
      continue
    compiled[name, 1] = compile_passes(apply_fn, params, xs, num_compiles)
    if mesh.size > 1 and B % mesh.size == 0:
      with jax.set_mesh(mesh):
        sharded = sharding.replicate(mesh, params), sharding.shard_batch(mesh, xs)
        compiled[name, mesh.size] = compile_passes(apply_fn, *sharded, num_compiles)
  if "torch" in names:
    with contextlib.suppress(ImportError):
      forward, both = peers.make_torch(cell, xs, H)
      compiled["torch", 1] = {"forward": forward, "both": both}, {"devices": 1}
  return compiled


def median_seconds(functions: dict, num_trials: int) -> dict:
  """Return {name: median duration in seconds} of functions without arguments, {name: function}.

  Each trial runs all functions in random order, so that a slow period of the machine affects all
  functions. Two additional warm-up trials are excluded from the median.
  """
  times, draw = {name: [] for name in functions}, np.random.default_rng(0)
  names = list(functions)
  for _ in range(num_trials + 2):
    for i in draw.permutation(len(names)):
      times[names[i]].append(time_call(functions[names[i]]))
  return {name: float(np.median(seconds[2:])) for name, seconds in times.items()}


def hardware_peaks() -> dict:
  """Measure {"gflops": GFLOP/s of a matrix product, "GBs": GB/s (read plus write) of a copy}.

  The matrices are [n, n], with n = 4096 on a CPU and 16,384 on other devices.
  """
  n = 4096 if jax.default_backend() == "cpu" else 16_384
  a = jax.random.normal(jax.random.key(0), (n, n))

  def min_seconds(f):
    return min(time_call(lambda: f(a).block_until_ready()) for _ in range(9))

  product, copy = min_seconds(jax.jit(lambda a: a @ a)), min_seconds(jax.jit(lambda a: a + 1))
  return {"gflops": round(2e-9 * n**3 / product, 1), "GBs": round(2e-9 * a.nbytes / copy, 1)}


def max_relative_error(cell: Cell, T: int = 37, B: int = 20, D: int = 24) -> float:
  """Return the largest relative error of the backend "auto"; the backend `scan` is the reference.

  Outputs and gradients of a bidirectional layer are compared in full precision, on rows of random
  lengths. The error of each array is divided by its largest absolute value or by 1, whichever is
  larger.
  """
  draw = np.random.default_rng(0)
  xs, lengths = draw.normal(size=(T, B, D)).astype(np.float32), draw.integers(0, T + 1, B)
  params = jax.tree.map(
    lambda p: p + draw.normal(0, 0.1, p.shape).astype(np.float32), cell.init(jax.random.key(0), D)
  )

  def loss(params, xs, backend):
    results = unroll_bidirectional(cell, (params, params), xs, lengths, backend=backend)
    return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(results)), results

  run = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
  with jax.default_matmul_precision("highest"):
    results = [run(params, xs, backend) for backend in ("auto", "scan")]
  actual, expected = (jax.device_get(jax.tree.leaves(result)) for result in results)
  errors = [abs(a - b).max() / max(1, abs(b).max()) for a, b in zip(actual, expected)]
  return float(np.max(errors))


def fastest_rows(rows) -> dict:
  """Return {(cell, shape): {implementation: row with the smallest "both_ms"}}."""
  groups = {}
  for row in rows:
    group = groups.setdefault((row["cell"], row["shape"]), {})
    rows_of_peer = row, group.get(row["peer"], row)
    group[row["peer"]] = min(rows_of_peer, key=lambda row: row["both_ms"])
  return groups


def mean_ratios(rows, column="both_ms") -> dict:
  """Return {implementation: ratio of its `column` to rnnjax's}, the geometric mean over `rows`.

  Of each implementation, cell and shape, the fastest row is used.
  """
  log_ratios = {}
  for group in fastest_rows(rows).values():
    for name, row in group.items():
      if column in row:
        ratio = row[column] / group["rnnjax"][column]
        log_ratios.setdefault(name, []).append(np.log(ratio))
  return {name: float(np.exp(np.mean(logs)).round(3)) for name, logs in log_ratios.items()}


def plot_ratios(rows, path):
  """Plot (time of each implementation) / (time of rnnjax) as bars, grouped by cell and shape."""
  from matplotlib import pyplot as plt

  groups, names = fastest_rows(rows), list(dict.fromkeys(row["peer"] for row in rows))
  figure, axes = plt.subplots(figsize=(12, 4), layout="constrained")
  width = 1 / (len(names) + 1)
  for i, name in enumerate(names):
    heights = [
      group[name]["both_ms"] / group["rnnjax"]["both_ms"] if name in group else 0
      for group in groups.values()
    ]
    positions = np.arange(len(groups)) + (i - len(names) / 2) * width
    axes.bar(positions, heights, width, label=name, align="edge", color=f"C{i}")
  labels = ["{}\nB {}\nT {}\nD {}\nH {}".format(cell.upper(), *shape) for cell, shape in groups]
  axes.set_xticks(range(len(groups)), labels, fontsize=8)
  axes.axhline(1, color="black", linewidth=0.5)
  axes.set_ylabel("forward and backward time relative to rnnjax")
  figure.legend(loc="outside upper center", ncols=len(names), fontsize=8)
  figure.savefig(path, dpi=120)
  plt.close(figure)
