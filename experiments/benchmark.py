"""How fast is the loop over time, beside its peers? All in one run, interleaved; medians.

  python -m experiments.benchmark --out=runs/benchmark       # pip install -e .[bench] for the peers

The loss is Σ ys², its gradient that for all parameters and xs. `GFLOP/s` counts products alone,
2(D + H)GH a step and row, thrice with the backward pass, and stands beside what one large product
reaches here. Memory is what XLA asks for besides arguments and results.
"""

import dataclasses
import json
import logging
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments import options, peers
from experiments.options import CELLS, option
from rnnjax.training import records

SHAPES = "32,200,128,128 64,600,32,100 20,35,650,650 64,100,512,512"
GATES = {"vanilla": 1, "gru": 3, "lstm": 4}


@dataclasses.dataclass(frozen=True)
class Config:
  shapes: str = option(SHAPES, "B,T,D,H of each loop")
  cell: str = option("", "one cell; LSTM and GRU where none is named", ("", *CELLS))
  trials: int = option(9, "timed runs of each", low=1)
  out: str = option("", "folder for the table as JSON")


def seconds(run) -> float:
  begun = time.perf_counter()
  run()
  return time.perf_counter() - begun


def compiled(net, params, xs):
  """{pass: run}, compile seconds and MiB of a peer's loop."""
  loss = lambda params, xs: (net(params, xs) ** 2).sum()
  runs, compile_s, memory = {}, 0.0, 0.0
  for name, f in {"forward": net, "both": jax.grad(loss, (0, 1))}.items():
    begun = time.perf_counter()
    made = jax.jit(f).lower(params, xs).compile()
    compile_s = time.perf_counter() - begun
    memory = made.memory_analysis().temp_size_in_bytes / 2**20
    runs[name] = lambda made=made: jax.block_until_ready(made(params, xs))
  return runs, {"compile_s": compile_s, "MiB": memory}


def contenders(cell, xs, H):
  """{name: (runs, facts)} of all peers that are installed."""
  made = {}
  for name, make in peers.JAX.items():
    try:
      net, params = make(cell, xs, H)
    except (ImportError, KeyError):
      continue
    made[name] = compiled(net, params, xs)
  try:
    forward, both = peers.torch(cell, xs, H)
    made["torch"] = {"forward": forward, "both": both}, {}
  except ImportError:
    pass
  return made


def ceiling(n=2048) -> float:
  """GFLOP/s of one product [n, n] [n, n] here."""
  a = jnp.ones((n, n))
  product = jax.jit(jnp.matmul)
  run = lambda: product(a, a).block_until_ready()
  run()
  return 2 * n**3 / min(seconds(run) for _ in range(5)) / 1e9


def measure(cell, shape, trials) -> list[dict]:
  """One row for each peer."""
  B, T, D, H = shape
  xs = jax.random.normal(jax.random.key(0), (T, B, D))
  made = contenders(cell, xs, H)
  times = {(name, way): [] for name, (runs, _) in made.items() for way in runs}
  order = np.random.default_rng(0)
  for trial in range(trials + 2):
    for name, way in order.permutation(list(times)):
      spent = seconds(made[name][0][way])
      if trial > 1:  # the first two warm up
        times[name, way].append(spent)
  flops = 3 * 2 * T * B * (D + H) * GATES[cell] * H
  rows = []
  for name, (_, facts) in made.items():
    forward, both = (float(np.median(times[name, way])) for way in ("forward", "both"))
    rows.append(dict(cell=cell, B=B, T=T, D=D, H=H, peer=name, forward_ms=1e3 * forward,
                     both_ms=1e3 * both, **facts, gflops=flops / both / 1e9))  # fmt: skip
  return rows


def run(config: Config = Config()):
  """Measures all; returns the geometric mean of each peer's time over rnnjax's."""
  rows, top = [], ceiling()
  shapes = [tuple(map(int, shape.split(","))) for shape in config.shapes.split()]
  cells = [config.cell] if config.cell else ["lstm", "gru"]
  for cell in cells:
    for shape in tqdm.tqdm(shapes, desc=cell, disable=None):
      rows += measure(cell, shape, config.trials)
      for row in rows[-len(peers.JAX) - 1 :]:
        logging.info("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
                               for k, v in row.items()))  # fmt: skip
  own = {(r["cell"], r["B"], r["H"]): r["both_ms"] for r in rows if r["peer"] == "rnnjax"}
  ratios = {}
  for row in rows:
    ratios.setdefault(row["peer"], []).append(row["both_ms"] / own[row["cell"], row["B"], row["H"]])
  if config.out:
    out = pathlib.Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    about = records.versions() | {"cores": os.cpu_count(), "ceiling_gflops": top}
    (out / "benchmark.json").write_text(json.dumps({"about": about, "rows": rows}, indent=2))
  return {"device": jax.devices()[0].device_kind, "ceiling_gflops": round(top, 1)} | {
    f"{peer}/rnnjax": round(float(np.exp(np.mean(np.log(r)))), 3) for peer, r in ratios.items()
  }


if __name__ == "__main__":
  options.main(Config, run)
