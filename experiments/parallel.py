"""Compare the speed of Newton's method, which is parallel over time, with the sequential loop.

  python -m experiments.parallel --workdir=runs/parallel   # 2 min on 2 CPU cores, plus compilation

The inputs are random, D = H, and the cells have their initial parameters. Two functions are
timed for each method: the forward pass, and the gradient of Σ ys². The timed runs of all methods
are interleaved, and medians are compared.

The loop runs T small steps one after another. Newton's method (`rnnjax.backends.newton.solver`)
needs only log T sequential steps per iteration, but more arithmetic: for a carry of n numbers, n³
per step and iteration instead of n² per step. Newton's method can therefore be faster only if
launching a step costs more than computing it. On a CPU, where a small step takes 0.1 to 1 µs,
Newton's method is slower for almost all sizes. rnnjax/backends/README.md has the results.
"""

import dataclasses
import functools
import itertools
import json
import logging
import pathlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.benchmarks.plots import plot_speedups
from experiments.benchmarks.timing import median_seconds
from experiments.common import cli
from experiments.common.cells import CELLS, make_cell
from experiments.common.train_config import field_spec
from rnnjax import unroll
from rnnjax.backends.newton.solver import JACOBIAN_FORMS, NewtonOptions, solve
from rnnjax.training import run_dir
from rnnjax.types import InvalidInputError

SEQUENTIAL_BACKENDS = ("scan", "deferred")
PASSES = {"forward": "forward", "both": "forward and backward"}


@dataclasses.dataclass(frozen=True)
class Config:
  cells: str = field_spec("gru,lstm", "cells, separated by commas")
  lengths: str = field_spec("100,1000,10000", "sequence lengths T, separated by commas")
  hidden_sizes: str = field_spec("4,16,32", "hidden sizes H, separated by commas")
  batch_sizes: str = field_spec("1,8", "batch sizes B, separated by commas")
  max_jacobian_gib: float = field_spec(
    0.1, "limit in GiB of the Jacobians; a larger loop is skipped", min_value=0
  )
  num_trials: int = field_spec(5, "timed runs of each method", min_value=1)
  workdir: str = field_spec("", "folder for the table (JSON) and the figure; empty for none")


def parse_sizes(flag: str, text: str) -> list[int]:
  """Return the sorted positive integers in a text such as "4,8,16".

  Raises:
    InvalidInputError: an item of the text is not a positive integer. The message names the flag.
  """
  parts = text.split(",")
  if not all(part.isdecimal() and int(part) for part in parts):
    raise InvalidInputError(f"--{flag} must be positive numbers such as 4,8,16; got {text!r}")
  return sorted(map(int, parts))


def measure(cell_name: str, T: int, H: int, B: int, num_trials: int) -> dict:
  """Time all methods for one cell and size; return one table row.

  The row contains the milliseconds of each method and pass, the number of iterations of Newton's
  method, and whether Newton's method converged.
  """
  cell, xs = make_cell(cell_name, H), jax.random.normal(jax.random.key(1), (T, B, H))
  params = cell.init(jax.random.key(0), H)
  row = {"cell": cell_name, "T": T, "H": H, "B": B}

  def run_backend(backend, params, xs):
    _, ys = unroll(cell, params, xs, backend=backend)
    return ys, None

  def run_newton(jacobian, params, xs):
    _, ys, info = solve(cell, params, xs, options=NewtonOptions(jacobian))
    return ys, info

  methods = {name: functools.partial(run_backend, name) for name in SEQUENTIAL_BACKENDS}
  methods |= {name: functools.partial(run_newton, name) for name in JACOBIAN_FORMS}
  functions = {}
  for method, apply_fn in methods.items():
    forward = jax.jit(apply_fn)

    def loss(params, xs, forward=forward):
      ys, _ = forward(params, xs)
      return (ys**2).sum()

    for pass_name, f in zip(PASSES, (forward, jax.jit(jax.grad(loss, (0, 1))))):
      functions[f"{method} {pass_name}"] = lambda f=f: jax.block_until_ready(f(params, xs))
    _, info = forward(params, xs)
    if info:
      row[f"{method} iterations"] = int(info.num_iterations)
      row[f"{method} converged"] = bool(info.converged)
  times = median_seconds(functions, num_trials)
  return row | {name: 1e3 * seconds for name, seconds in times.items()}


def speedup(row: dict, form: str, pass_name: str) -> float:
  """Return the time of the fastest sequential backend divided by the time of Newton's method."""
  fastest = min(row[f"{backend} {pass_name}"] for backend in SEQUENTIAL_BACKENDS)
  return fastest / row[f"{form} {pass_name}"]


def geometric_mean(values: Iterable[float]) -> float:
  """Return the geometric mean of the values, rounded to three decimals."""
  return float(np.exp(np.mean(np.log(list(values)))).round(3))


def run(config: Config = Config()) -> dict:
  """Time all combinations of cells and sizes with Jacobians of at most --max_jacobian_gib.

  Returns:
    The geometric means of the speedups and of the numbers of iterations.

  Raises:
    InvalidInputError: a flag is invalid, or every combination exceeds --max_jacobian_gib.
  """
  cells = config.cells.split(",")
  if not set(cells) <= set(CELLS):
    raise InvalidInputError(f"--cells must be some of {','.join(CELLS)}; got {config.cells!r}")
  sizes = [
    parse_sizes(flag, getattr(config, flag)) for flag in ("lengths", "hidden_sizes", "batch_sizes")
  ]
  rows = []
  for cell_name, T, H, B in tqdm.tqdm(list(itertools.product(cells, *sizes)), disable=None):
    carry = jax.eval_shape(make_cell(cell_name, H).initial_carry, jnp.zeros(1))
    n = sum(part.size for part in carry)
    if 4 * T * B * n**2 <= config.max_jacobian_gib * 2**30:
      rows.append(measure(cell_name, T, H, B, config.num_trials))
      logging.info(json.dumps(rows[-1]))
  if not rows:
    raise InvalidInputError(
      f"--max_jacobian_gib={config.max_jacobian_gib} GiB is too little for any of these loops"
    )
  if config.workdir:
    workdir = pathlib.Path(config.workdir).expanduser()
    workdir.mkdir(parents=True, exist_ok=True)
    about = run_dir.package_versions() | {"device": jax.devices()[0].device_kind}
    (workdir / "parallel.json").write_text(json.dumps({"about": about, "rows": rows}, indent=2))
    panels = {}
    for pass_name, cell_name, form in itertools.product(PASSES, cells, JACOBIAN_FORMS):
      panels[PASSES[pass_name], f"{cell_name.upper()}, {form}"] = {
        (row["H"], row["B"], row["T"]): speedup(row, form, pass_name)
        for row in rows
        if row["cell"] == cell_name
      }
    plot_speedups(workdir / "parallel.png", panels)
  speedups = {
    f"gain/{form} {pass_name}": geometric_mean(speedup(row, form, pass_name) for row in rows)
    for form, pass_name in itertools.product(JACOBIAN_FORMS, PASSES)
  }
  iterations = {
    f"iterations/{form}": geometric_mean(row[f"{form} iterations"] for row in rows)
    for form in JACOBIAN_FORMS
  }
  return speedups | iterations


if __name__ == "__main__":
  cli.main(Config, run)
