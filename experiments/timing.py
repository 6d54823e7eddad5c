"""How peers are timed and compared: what a loop takes, fair medians, ceilings, ratios, a figure."""

import time

import jax
import jax.numpy as jnp
import numpy as np


def seconds(run) -> float:
  """How long run() takes."""
  begun = time.perf_counter()
  run()
  return time.perf_counter() - begun


def compiled(net, params, xs):
  """{pass: run} of ys = net(params, xs), and what its gradient takes.

  Returns:
    {"forward": run, "both": run}, and {"devices", "compile_s": seconds, "MiB": temporaries,
    "bytes": arguments, results and, written and read, temporaries}.
  """
  # A new function each time, for jax remembers what it traced.
  loss = lambda: jax.grad(lambda params, xs: (net(params, xs) ** 2).sum(), (0, 1))
  build = lambda f: jax.jit(f).lower(params, xs).compile()
  made = {"forward": build(net), "both": build(loss())}
  compile_s = min(seconds(lambda: build(loss())) for _ in range(3))
  use, devices = made["both"].memory_analysis(), len(xs.sharding.device_set)
  moved = use.argument_size_in_bytes + use.output_size_in_bytes + 2 * use.temp_size_in_bytes
  runs = {name: lambda f=f: jax.block_until_ready(f(params, xs)) for name, f in made.items()}
  MiB = devices * use.temp_size_in_bytes / 2**20
  return runs, {"devices": devices, "compile_s": compile_s, "MiB": MiB, "bytes": devices * moved}


def medians(runs: dict, trials: int) -> dict:
  """{name: median seconds} of runs that take turns, in a new order each time; two warm up."""
  times, order = {name: [] for name in runs}, np.random.default_rng(0)
  for _ in range(trials + 2):
    for i in order.permutation(len(runs)):
      name = list(runs)[i]
      times[name].append(seconds(runs[name]))
  return {name: float(np.median(each[2:])) for name, each in times.items()}


def ceilings(n: int = 4096) -> dict:
  """GFLOP/s of one product [n, n] [n, n], and GB/s of one copy of n² numbers, read and written."""
  a = jnp.ones((n, n))
  fastest = lambda f: min(seconds(lambda: f(a).block_until_ready()) for _ in range(9))
  product, copy = fastest(jax.jit(lambda a: a @ a)), fastest(jax.jit(lambda a: a + 1))
  return {"gflops": round(2e-9 * n**3 / product, 1), "GBs": round(2e-9 * a.nbytes / copy, 1)}


def best(rows) -> dict:
  """{(cell, shape): {peer: its fastest row}}."""
  found = {}
  for row in rows:
    group = found.setdefault((row["cell"], row["shape"]), {})
    group[row["peer"]] = min(row, group.get(row["peer"], row), key=lambda row: row["both_ms"])
  return found


def ratios(rows, value="both_ms") -> dict:
  """{peer: geometric mean of its value over that of rnnjax}."""
  logs = {}
  for group in best(rows).values():
    for peer, row in group.items():
      if value in row:
        logs.setdefault(peer, []).append(np.log(row[value] / group["rnnjax"][value]))
  return {peer: float(np.exp(np.mean(each)).round(3)) for peer, each in logs.items()}


def draw(rows, path):
  """Time of each peer over that of rnnjax, a group of bars for each loop."""
  from matplotlib import pyplot as plt

  groups, names = best(rows), list(dict.fromkeys(row["peer"] for row in rows))
  figure, axes = plt.subplots(figsize=(12, 4), layout="constrained")
  for i, name in enumerate(names):
    heights = [group[name]["both_ms"] / group["rnnjax"]["both_ms"] if name in group else 0
               for group in groups.values()]  # fmt: skip
    places = np.arange(len(groups)) + (i - len(names) / 2) / (len(names) + 1)
    axes.bar(places, heights, 1 / (len(names) + 1), label=name, align="edge", color=f"C{i}")
  labels = ["{} B {}\nT {}, D {}, H {}".format(cell.upper(), *shape) for cell, shape in groups]
  axes.set_xticks(range(len(groups)), labels, fontsize=8)
  axes.axhline(1, color="black", linewidth=0.5)
  axes.set_ylabel("time, forward and backward, over rnnjax's")
  figure.legend(loc="outside upper center", ncols=len(names), fontsize=8)
  figure.savefig(path, dpi=120)
  plt.close(figure)
