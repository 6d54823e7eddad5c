"""How fast is the loop over time, beside its peers? All in one run, interleaved; medians.

  python -m experiments.benchmark --workdir=runs/benchmark   # pip install -e .[bench]; 10 minutes
  python -m experiments.benchmark --preset=gpu --workdir=runs/gpu      # on a GPU, torch's cuDNN beside

The loss is Σ ys², its gradient that for all parameters and xs. Each JAX peer runs on one device
with all cores, and on a device a core with its rows of the batch; the faster counts. GFLOP/s
count products alone, 2(D + H)GH a row and step, thrice with the backward pass; they and GB/s stand
beside what one large product and one large copy reach here. Products are computed as each framework
does by default, on a GPU in TF32; the gap, of ours to the plain loop, is that in full precision.
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
from experiments.common.train_config import CELLS, field_spec
from rnnjax.training import device_mesh, run_dir
from rnnjax.types import InvalidInputError

DEFAULT_SHAPES = "32,200,128,128 64,600,32,100 20,35,650,650 64,100,512,512"
NUM_GATES = {"vanilla": 1, "gru": 3, "lstm": 4}
PRESETS = {
  "gpu": dict(
    shapes=" ".join(f"{B},512,{H},{H}" for B in (64, 256) for H in (128, 256, 512, 1024)),
    implementations="rnnjax,own cell,own peephole,cudnn,flax,torch",
  )
}


@dataclasses.dataclass(frozen=True)
class Config:
  shapes: str = field_spec(DEFAULT_SHAPES, "B,T,D,H of each loop")
  cell: str = field_spec("", "one cell; LSTM and GRU where none is named", ("", *NUM_GATES))
  implementations: str = field_spec(
    ",".join([*peers.JAX_IMPLEMENTATIONS, "torch"]), "who takes part, with commas"
  )
  num_trials: int = field_spec(9, "timed runs of each", min_value=1)
  workdir: str = field_spec("", "folder for the table as JSON, and the figure")


def parse_shapes(text: str) -> list[tuple]:
  """The shapes B,T,D,H that a text names, spaces between them."""
  try:
    shapes = [tuple(map(int, shape.split(","))) for shape in text.split()]
  except ValueError:
    shapes = []
  if not shapes or any(len(shape) != 4 or min(shape) < 1 for shape in shapes):
    raise InvalidInputError(
      f"--shapes must be positive B,T,D,H, such as {DEFAULT_SHAPES!r}; got {text!r}"
    )
  return shapes


def measure(cell, shape, compiled_runs, num_trials) -> list[dict]:
  """One row for each contender."""
  B, T, D, H = shape
  runs = {(*key, way): run for key, (ways, _) in compiled_runs.items() for way, run in ways.items()}
  spent = median_seconds(runs, num_trials)
  flops, rows = 3 * 2 * T * B * (D + H) * NUM_GATES[cell] * H, []
  for (name, number), (_, facts) in compiled_runs.items():
    forward, both = (spent[name, number, way] for way in ("forward", "both"))
    rates = {"gflops": flops / both / 1e9, "GBs": facts.pop("bytes", 0) / both / 1e9}
    times = {"forward_ms": 1e3 * forward, "both_ms": 1e3 * both, "us_a_step": 1e6 * both / T}
    rows.append({"cell": cell, "shape": shape, "peer": name} | facts | times | rates)
  return rows


def run(config: Config = Config()):
  """Measures all; returns the ceilings, and geometric means of the peers' values over ours."""
  shapes, names = parse_shapes(config.shapes), config.implementations.split(",")
  if "rnnjax" not in names or not {*peers.JAX_IMPLEMENTATIONS, "torch"} >= set(names):
    raise InvalidInputError(
      f"--implementations must be rnnjax and any of {', '.join([*peers.JAX_IMPLEMENTATIONS, 'torch'])}, with "
      f"commas; got {config.implementations!r}"
    )
  cells = [config.cell] if config.cell else ["lstm", "gru"]
  about = run_dir.package_versions() | {"devices": [d.device_kind for d in jax.devices()]}
  about["ceilings"] = hardware_peaks() | {
    f"gap/{cell}": max_relative_error(CELLS[cell](100)) for cell in cells
  }
  logging.info(about)
  rows = []
  loops = list(itertools.product(cells, shapes))
  build = lambda loop: compile_all(*loop, names)
  if jax.default_backend() == "cpu":
    made = map(build, loops)  # one after another, for how long it takes to compile is a figure
  else:
    with concurrent.futures.ThreadPoolExecutor() as pool:
      made = list(pool.map(build, loops))
  for loop, each in tqdm.tqdm(zip(loops, made), total=len(loops), disable=None):
    rows += (new := measure(*loop, each, config.num_trials))
    for row in new:
      show = lambda v: f"{v:.3g}" if isinstance(v, float) else str(v)
      logging.info("  ".join(f"{name} {show(v)}" for name, v in row.items()))
  if config.workdir:
    out = pathlib.Path(config.workdir)
    out.mkdir(parents=True, exist_ok=True)
    (out / "benchmark.json").write_text(json.dumps({"about": about, "rows": rows}, indent=2))
    plot_ratios(rows, out / "benchmark.png")
  ends = {"time": "both_ms", "memory": "MiB", "compilation": "compile_s"}
  return about["ceilings"] | {
    f"{name}/rnnjax": mean_ratios(rows, value) for name, value in ends.items()
  }


if __name__ == "__main__":
  device_mesh.use_cpu_cores_as_devices(0)  # all of them: zero rows can be shared by any number
  cli.main(Config, run, PRESETS)
