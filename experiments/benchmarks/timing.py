"""How peers are timed and compared: what a loop takes, fair medians, ceilings, ratios, a figure."""

import contextlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import peers
from rnnjax.training import device_mesh, sharding
from rnnjax.unroll import unroll_bidirectional


def time_call(fn) -> float:
  """How long run() takes."""
  begun = time.perf_counter()
  fn()
  return time.perf_counter() - begun


def compile_passes(apply_fn, params, xs, num_compiles: int = 3):
  """{pass: run} of ys = net(params, xs), and what its gradient takes.

  Args:
    net, params, xs: as said.
    repeats: how often compilation is timed; 0 for not at all.

  Returns:
    {"forward": run, "both": run}, and {"devices", "compile_s": seconds, "MiB": temporaries,
    "bytes": arguments, results and, written and read, temporaries}.
  """
  # A new function each time, for jax remembers what it traced.
  loss = lambda: jax.grad(lambda params, xs: (apply_fn(params, xs) ** 2).sum(), (0, 1))
  build = lambda f: jax.jit(f).lower(params, xs).compile()
  made = {"forward": build(apply_fn), "both": build(loss())}
  times = [time_call(lambda: build(loss())) for _ in range(num_compiles)]
  use, devices = made["both"].memory_analysis(), len(xs.sharding.device_set)
  moved = use.argument_size_in_bytes + use.output_size_in_bytes + 2 * use.temp_size_in_bytes
  runs = {name: lambda f=f: jax.block_until_ready(f(params, xs)) for name, f in made.items()}
  MiB = devices * use.temp_size_in_bytes / 2**20
  took = {"compile_s": min(times)} if times else {}
  return runs, {"devices": devices, "MiB": MiB, "bytes": devices * moved} | took


def compile_all(cell, shape, names):
  """{(name, devices): (runs, facts)} of all peers of these names that are installed."""
  B, T, D, H = shape
  xs = jax.random.normal(jax.random.key(0), (T, B, D))
  made, mesh = {}, device_mesh.make_mesh()
  repeats = 3 if jax.default_backend() == "cpu" else 0  # elsewhere many compile at once
  for name, make in peers.JAX_IMPLEMENTATIONS.items():
    if name not in names:
      continue
    try:
      net, params = make(cell, xs, H)
    except (ImportError, KeyError):
      continue
    made[name, 1] = compile_passes(net, params, xs, repeats)
    if mesh.size > 1 and B % mesh.size == 0:
      with jax.set_mesh(mesh):
        placed = sharding.replicate(mesh, params), sharding.shard_batch(mesh, xs)
        made[name, mesh.size] = compile_passes(net, *placed, repeats)
  if "torch" in names:
    with contextlib.suppress(ImportError):
      made["torch", 1] = (
        dict(zip(("forward", "both"), peers.make_torch(cell, xs, H))),
        {"devices": 1},
      )
  return made


def median_seconds(runs: dict, num_trials: int) -> dict:
  """{name: median seconds} of runs that take turns, in a new order each time; two warm up."""
  times, order = {name: [] for name in runs}, np.random.default_rng(0)
  for _ in range(num_trials + 2):
    for i in order.permutation(len(runs)):
      name = list(runs)[i]
      times[name].append(time_call(runs[name]))
  return {name: float(np.median(each[2:])) for name, each in times.items()}


def hardware_peaks() -> dict:
  """GFLOP/s of one product [n, n] [n, n], and GB/s of one copy of n² numbers, read and written."""
  n = 4096 if jax.default_backend() == "cpu" else 16_384
  a = jax.random.normal(jax.random.key(0), (n, n))
  fastest = lambda f: min(time_call(lambda: f(a).block_until_ready()) for _ in range(9))
  product, copy = fastest(jax.jit(lambda a: a @ a)), fastest(jax.jit(lambda a: a + 1))
  return {"gflops": round(2e-9 * n**3 / product, 1), "GBs": round(2e-9 * a.nbytes / copy, 1)}


def max_relative_error(cell, T: int = 37, B: int = 20, D: int = 24) -> float:
  """How far outputs and gradients of what `auto` chooses are from those of the plain loop, both in
  full precision, on rows of random lengths in both directions; relative to the largest number."""
  draw = np.random.default_rng(0)
  xs, lengths = draw.normal(size=(T, B, D)).astype(np.float32), draw.integers(0, T + 1, B)
  params = jax.tree.map(
    lambda p: p + draw.normal(0, 0.1, p.shape).astype(np.float32), cell.init(jax.random.key(0), D)
  )

  def loss(params, xs, backend):
    ends = unroll_bidirectional(cell, (params, params), xs, lengths, backend=backend)
    return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(ends)), ends

  run = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
  with jax.default_matmul_precision("highest"):
    ends = [run(params, xs, backend) for backend in ("auto", "scan")]
  ours, plain = (jax.device_get(jax.tree.leaves(end)) for end in ends)
  return float(np.max([abs(a - b).max() / max(1, abs(b).max()) for a, b in zip(ours, plain)]))


def fastest_rows(rows) -> dict:
  """{(cell, shape): {peer: its fastest row}}."""
  found = {}
  for row in rows:
    group = found.setdefault((row["cell"], row["shape"]), {})
    group[row["peer"]] = min(row, group.get(row["peer"], row), key=lambda row: row["both_ms"])
  return found


def mean_ratios(rows, column="both_ms") -> dict:
  """{peer: geometric mean of its value over that of rnnjax}."""
  logs = {}
  for group in fastest_rows(rows).values():
    for peer, row in group.items():
      if column in row:
        logs.setdefault(peer, []).append(np.log(row[column] / group["rnnjax"][column]))
  return {peer: float(np.exp(np.mean(each)).round(3)) for peer, each in logs.items()}


def plot_ratios(rows, path):
  """Time of each peer over that of rnnjax, a group of bars for each loop."""
  from matplotlib import pyplot as plt

  groups, names = fastest_rows(rows), list(dict.fromkeys(row["peer"] for row in rows))
  figure, axes = plt.subplots(figsize=(12, 4), layout="constrained")
  for i, name in enumerate(names):
    heights = [
      group[name]["both_ms"] / group["rnnjax"]["both_ms"] if name in group else 0
      for group in groups.values()
    ]
    places = np.arange(len(groups)) + (i - len(names) / 2) / (len(names) + 1)
    axes.bar(places, heights, 1 / (len(names) + 1), label=name, align="edge", color=f"C{i}")
  labels = ["{}\nB {}\nT {}\nD {}\nH {}".format(cell.upper(), *shape) for cell, shape in groups]
  axes.set_xticks(range(len(groups)), labels, fontsize=8)
  axes.axhline(1, color="black", linewidth=0.5)
  axes.set_ylabel("time, forward and backward, over rnnjax's")
  figure.legend(loc="outside upper center", ncols=len(names), fontsize=8)
  figure.savefig(path, dpi=120)
  plt.close(figure)
