"""Compare the speed of recurrent layers in rnnjax and in other implementations.

  python -m experiments.benchmark --workdir=runs/benchmark   # pip install -e .[bench]; 10 minutes
  python -m experiments.benchmark --preset=gpu --workdir=runs/gpu      # on a GPU; torch uses cuDNN

The loss is Σ ys², with gradients for all parameters and xs. The timed runs of all implementations
are interleaved, and medians are compared. Each JAX implementation runs twice: on one device with
all cores, and on one device per core with the batch sharded over the devices. The faster result is
used.

GFLOP/s include only matrix products: 2(D + H)GH per row and step for the forward pass, and three
times as many for the forward and backward pass. GFLOP/s are compared with one large matrix product
on the same machine, and GB/s with one large copy. Matrix products have each framework's default
precision, which is TF32 on a GPU. The error of rnnjax relative to the plain loop is measured in
full precision.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import logging
import pathlib

import jax
import tqdm

from experiments.benchmarks import peers
from experiments.benchmarks.timing import (
  compile_all,
  hardware_peaks,
  max_relative_error,
  mean_ratios,
  median_seconds,
  plot_ratios,
)
from experiments.common import cli
from experiments.common.cells import make_cell
from experiments.common.train_config import field_spec
from rnnjax.training import device_mesh, run_dir
from rnnjax.types import InvalidInputError

DEFAULT_SHAPES = "32,200,128,128 64,600,32,100 20,35,650,650 64,100,512,512"
NUM_GATES = {"vanilla": 1, "gru": 3, "lstm": 4}
IMPLEMENTATIONS = (*peers.JAX_IMPLEMENTATIONS, "torch")
PRESETS = {
  "gpu": dict(
    shapes=" ".join(f"{B},512,{H},{H}" for B in (64, 256) for H in (128, 256, 512, 1024)),
    implementations="rnnjax,own cell,own peephole,cudnn,flax,torch",
  )
}


@dataclasses.dataclass(frozen=True)
class Config:
  shapes: str = field_spec(DEFAULT_SHAPES, "B,T,D,H of each loop, separated by spaces")
  cell: str = field_spec("", "cell to measure; empty for LSTM and GRU", ("", *NUM_GATES))
  implementations: str = field_spec(
    ",".join(IMPLEMENTATIONS), "implementations to compare, separated by commas"
  )
  num_trials: int = field_spec(9, "timed runs of each implementation", min_value=1)
  workdir: str = field_spec("", "folder for the table (JSON) and the figure; empty for none")


def parse_shapes(text: str) -> list[tuple[int, ...]]:
  """Parse shapes (B, T, D, H) from a text such as "32,200,128,128 64,600,32,100".

  Raises:
    InvalidInputError: the text is empty, or a shape is not four positive integers.
  """
  try:
    shapes = [tuple(map(int, shape.split(","))) for shape in text.split()]
  except ValueError:
    shapes = []
  if not shapes or any(len(shape) != 4 or min(shape) < 1 for shape in shapes):
    raise InvalidInputError(
      f"--shapes must be positive B,T,D,H, such as {DEFAULT_SHAPES!r}; got {text!r}"
    )
  return shapes


def measure(cell: str, shape: tuple[int, ...], compiled: dict, num_trials: int) -> list[dict]:
  """Return one row of measurements for each implementation and number of devices.

  Args:
    cell: name of the cell.
    shape: (B, T, D, H).
    compiled: the functions to run, as returned by `compile_all`.
    num_trials: the number of timed runs of each function.
  """
  B, T, D, H = shape
  functions = {
    (*key, pass_name): function
    for key, (passes, _) in compiled.items()
    for pass_name, function in passes.items()
  }
  seconds = median_seconds(functions, num_trials)
  flops = 3 * 2 * T * B * (D + H) * NUM_GATES[cell] * H
  rows = []
  for (name, num_devices), (_, stats) in compiled.items():
    forward, both = (seconds[name, num_devices, pass_name] for pass_name in ("forward", "both"))
    rates = {"gflops": flops / both / 1e9, "GBs": stats.pop("bytes", 0) / both / 1e9}
    times = {"forward_ms": 1e3 * forward, "both_ms": 1e3 * both, "us_a_step": 1e6 * both / T}
    rows.append({"cell": cell, "shape": shape, "peer": name} | stats | times | rates)
  return rows


def run(config: Config = Config()) -> dict:
  """Measure the time, memory and error of all implementations on all shapes.

  Returns:
    The peak GFLOP/s and GB/s, the errors of rnnjax relative to the plain loop, and for each
    implementation the geometric means of time, memory and compilation time relative to rnnjax.

  Raises:
    InvalidInputError: a flag is invalid.
  """
  shapes, names = parse_shapes(config.shapes), config.implementations.split(",")
  if "rnnjax" not in names or not set(names) <= set(IMPLEMENTATIONS):
    raise InvalidInputError(
      f"--implementations must be rnnjax and any of {', '.join(IMPLEMENTATIONS)}, separated by "
      f"commas; got {config.implementations!r}"
    )
  cells = [config.cell] if config.cell else ["lstm", "gru"]
  about = run_dir.package_versions() | {"devices": [d.device_kind for d in jax.devices()]}
  errors = {f"gap/{cell}": max_relative_error(make_cell(cell, 100)) for cell in cells}
  about["ceilings"] = hardware_peaks() | errors
  logging.info(about)

  loops = list(itertools.product(cells, shapes))

  def compile_loop(loop):
    return compile_all(*loop, names)

  if jax.default_backend() == "cpu":
    # `map` compiles lazily, one loop after another, because the compilation time is measured too.
    all_compiled = map(compile_loop, loops)
  else:
    with concurrent.futures.ThreadPoolExecutor() as pool:
      all_compiled = list(pool.map(compile_loop, loops))
  rows = []
  for (cell, shape), compiled in tqdm.tqdm(
    zip(loops, all_compiled), total=len(loops), disable=None
  ):
    new_rows = measure(cell, shape, compiled, config.num_trials)
    rows += new_rows
    for row in new_rows:
      logging.info("  ".join(f"{name} {_format(value)}" for name, value in row.items()))
  if config.workdir:
    workdir = pathlib.Path(config.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "benchmark.json").write_text(json.dumps({"about": about, "rows": rows}, indent=2))
    plot_ratios(rows, workdir / "benchmark.png")
  columns = {"time": "both_ms", "memory": "MiB", "compilation": "compile_s"}
  ratios = {f"{name}/rnnjax": mean_ratios(rows, column) for name, column in columns.items()}
  return about["ceilings"] | ratios


def _format(value):
  return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
  # Batch size 0 gives one device per core, because any number of devices divides 0.
  device_mesh.use_cpu_cores_as_devices(0)
  cli.main(Config, run, PRESETS)
