"""When is it faster to take all steps of time at once? Newton's method against the loop.

  python -m experiments.parallel --workdir=runs/parallel   # 2 min on 2 CPU cores, compiled before

The inputs are random and D = H; the cells are as they start. Each way runs forward, and forward and
backward of Σ ys²; all of one loop take turns, and medians count. A loop waits T times for one small
step; Newton's method (`rnnjax.backends.newton.solver`) does more arithmetic, n³ where the loop has
n², and several times over, in log T rounds: it can pay only where a step costs more to start than
to do. On a CPU, which runs a small step in 0.1 to 1 µs, it does not: forward it reaches 0.07 (full)
and 0.10 (diagonal) of the faster loop's speed, forward and backward 0.19 and 0.23; at best 1.07, a
GRU with H = 4, B = 1, T = 10,000. Full Jacobians take 4 or 5 iterations, diagonals 12 to 31.
"""

import dataclasses
import functools
import itertools
import json
import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.benchmarks.plots import plot_speedups
from experiments.benchmarks.timing import median_seconds
from experiments.common import cli
from experiments.common.train_config import CELLS, field_spec
from rnnjax import unroll
from rnnjax.backends.newton.solver import JACOBIAN_FORMS, NewtonOptions, solve
from rnnjax.training import run_dir
from rnnjax.types import InvalidInputError

SEQUENTIAL_BACKENDS = ("scan", "deferred")
PASSES = {"forward": "forward", "both": "forward and backward"}


@dataclasses.dataclass(frozen=True)
class Config:
  cells: str = field_spec("gru,lstm", "cells, with commas")
  lengths: str = field_spec("100,1000,10000", "T, with commas")
  hidden_sizes: str = field_spec("4,16,32", "H, with commas")
  batch_sizes: str = field_spec("1,8", "B, with commas")
  max_jacobian_gib: float = field_spec(
    0.1, "GiB of Jacobians beyond which a loop is left out", min_value=0
  )
  num_trials: int = field_spec(5, "timed runs of each", min_value=1)
  workdir: str = field_spec("", "folder for the table as JSON, and the figure")


def parse_sizes(name: str, text: str) -> list[int]:
  """The positive numbers of a text, in order."""
  parts = text.split(",")
  if not all(part.isdecimal() and int(part) for part in parts):
    raise InvalidInputError(f"--{name} must be positive numbers such as 4,8,16; got {text!r}")
  return sorted(map(int, parts))


def measure(cell_name: str, T: int, H: int, B: int, num_trials: int) -> dict:
  """Milliseconds of each way and pass, and what Newton's method took to converge."""
  cell, xs = CELLS[cell_name](H), jax.random.normal(jax.random.key(1), (T, B, H))
  params, row, runs = (
    cell.init(jax.random.key(0), H),
    {"cell": cell_name, "T": T, "H": H, "B": B},
    {},
  )
  loop = lambda way, params, xs: (unroll(cell, params, xs, backend=way)[1], None)
  newton = lambda form, params, xs: solve(cell, params, xs, options=NewtonOptions(form))[1:]
  for way, net in [(way, loop) for way in SEQUENTIAL_BACKENDS] + [
    (form, newton) for form in JACOBIAN_FORMS
  ]:
    forward = jax.jit(functools.partial(net, way))
    both = jax.jit(jax.grad(lambda *args, f=forward: (f(*args)[0] ** 2).sum(), (0, 1)))
    for each, f in zip(PASSES, (forward, both)):
      runs[f"{way} {each}"] = lambda f=f: jax.block_until_ready(f(params, xs))
    if found := forward(params, xs)[1]:
      row |= {f"{way} iterations": int(found.num_iterations), f"{way} found": bool(found.converged)}
  return row | {way: 1e3 * spent for way, spent in median_seconds(runs, num_trials).items()}


def speedup(row: dict, form: str, pass_name: str) -> float:
  """How many times as fast as the faster loop."""
  return min(row[f"{way} {pass_name}"] for way in SEQUENTIAL_BACKENDS) / row[f"{form} {pass_name}"]


def run(config: Config = Config()):
  """Measures all; returns geometric means of the gains, and of the iterations."""
  cells, rows = config.cells.split(","), []
  if not set(cells) <= set(CELLS):
    raise InvalidInputError(f"--cells must be some of {','.join(CELLS)}; got {config.cells!r}")
  sizes = [parse_sizes(name, getattr(config, name)) for name in ("lengths", "hidden", "rows")]
  for name, T, H, B in tqdm.tqdm(list(itertools.product(cells, *sizes)), disable=None):
    n = sum(part.size for part in jax.eval_shape(CELLS[name](H).start, jnp.zeros(1)))
    if 4 * T * B * n**2 <= config.max_jacobian_gib * 2**30:
      rows.append(measure(name, T, H, B, config.num_trials))
      logging.info(json.dumps(rows[-1]))
  if not rows:
    raise InvalidInputError(
      f"--max_jacobian_gib={config.max_jacobian_gib} GiB is too little for any of these loops"
    )
  pairs = list(itertools.product(JACOBIAN_FORMS, PASSES))
  if config.workdir:
    out = pathlib.Path(config.workdir).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    about = run_dir.package_versions() | {"device": jax.devices()[0].device_kind}
    (out / "parallel.json").write_text(json.dumps({"about": about, "rows": rows}, indent=2))
    panels = {
      (PASSES[each], f"{cell.upper()}, {form}"): {
        (row["H"], row["B"], row["T"]): speedup(row, form, each)
        for row in rows
        if row["cell"] == cell
      }
      for each, cell, form in itertools.product(PASSES, cells, JACOBIAN_FORMS)
    }
    plot_speedups(out / "parallel.png", panels)
  mean = lambda values: float(np.exp(np.mean(np.log(list(values)))).round(3))
  means = {
    f"gain/{form} {each}": mean(speedup(row, form, each) for row in rows) for form, each in pairs
  }
  return means | {
    f"iterations/{form}": mean(row[f"{form} iterations"] for row in rows) for form in JACOBIAN_FORMS
  }


if __name__ == "__main__":
  cli.main(Config, run)
