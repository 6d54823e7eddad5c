"""How fast is the loop over time, beside its peers? All in one run, interleaved; medians.

  python -m experiments.benchmark --out=runs/benchmark   # pip install -e .[bench]; 10 minutes
  python -m experiments.benchmark --preset=gpu --out=runs/gpu      # on a GPU, torch's cuDNN beside

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
from experiments.benchmarks.timing import ceilings, contenders, draw, gap, medians, ratios
from experiments.common import cli
from experiments.common.train_config import CELLS, option
from rnnjax.training import device_mesh, run_dir
from rnnjax.types import BadInput

SHAPES = "32,200,128,128 64,600,32,100 20,35,650,650 64,100,512,512"
GATES = {"vanilla": 1, "gru": 3, "lstm": 4}
PRESETS = {
  "gpu": dict(
    shapes=" ".join(f"{B},512,{H},{H}" for B in (64, 256) for H in (128, 256, 512, 1024)),
    peers="rnnjax,own cell,own peephole,cudnn,flax,torch",
  )
}


@dataclasses.dataclass(frozen=True)
class Config:
  shapes: str = option(SHAPES, "B,T,D,H of each loop")
  cell: str = option("", "one cell; LSTM and GRU where none is named", ("", *GATES))
  peers: str = option(",".join([*peers.JAX, "torch"]), "who takes part, with commas")
  trials: int = option(9, "timed runs of each", low=1)
  out: str = option("", "folder for the table as JSON, and the figure")


def parse(text: str) -> list[tuple]:
  """The shapes B,T,D,H that a text names, spaces between them."""
  try:
    shapes = [tuple(map(int, shape.split(","))) for shape in text.split()]
  except ValueError:
    shapes = []
  if not shapes or any(len(shape) != 4 or min(shape) < 1 for shape in shapes):
    raise BadInput(f"--shapes must be positive B,T,D,H, such as {SHAPES!r}; got {text!r}")
  return shapes


def measure(cell, shape, made, trials) -> list[dict]:
  """One row for each contender."""
  B, T, D, H = shape
  runs = {(*key, way): run for key, (ways, _) in made.items() for way, run in ways.items()}
  spent = medians(runs, trials)
  flops, rows = 3 * 2 * T * B * (D + H) * GATES[cell] * H, []
  for (name, number), (_, facts) in made.items():
    forward, both = (spent[name, number, way] for way in ("forward", "both"))
    rates = {"gflops": flops / both / 1e9, "GBs": facts.pop("bytes", 0) / both / 1e9}
    times = {"forward_ms": 1e3 * forward, "both_ms": 1e3 * both, "us_a_step": 1e6 * both / T}
    rows.append({"cell": cell, "shape": shape, "peer": name} | facts | times | rates)
  return rows


def run(config: Config = Config()):
  """Measures all; returns the ceilings, and geometric means of the peers' values over ours."""
  shapes, names = parse(config.shapes), config.peers.split(",")
  if "rnnjax" not in names or not {*peers.JAX, "torch"} >= set(names):
    raise BadInput(
      f"--peers must be rnnjax and any of {', '.join([*peers.JAX, 'torch'])}, with "
      f"commas; got {config.peers!r}"
    )
  cells = [config.cell] if config.cell else ["lstm", "gru"]
  about = run_dir.versions() | {"devices": [d.device_kind for d in jax.devices()]}
  about["ceilings"] = ceilings() | {f"gap/{cell}": gap(CELLS[cell](100)) for cell in cells}
  logging.info(about)
  rows = []
  loops = list(itertools.product(cells, shapes))
  build = lambda loop: contenders(*loop, names)
  if jax.default_backend() == "cpu":
    made = map(build, loops)  # one after another, for how long it takes to compile is a figure
  else:
    with concurrent.futures.ThreadPoolExecutor() as pool:
      made = list(pool.map(build, loops))
  for loop, each in tqdm.tqdm(zip(loops, made), total=len(loops), disable=None):
    rows += (new := measure(*loop, each, config.trials))
    for row in new:
      show = lambda v: f"{v:.3g}" if isinstance(v, float) else str(v)
      logging.info("  ".join(f"{name} {show(v)}" for name, v in row.items()))
  if config.out:
    out = pathlib.Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "benchmark.json").write_text(json.dumps({"about": about, "rows": rows}, indent=2))
    draw(rows, out / "benchmark.png")
  ends = {"time": "both_ms", "memory": "MiB", "compilation": "compile_s"}
  return about["ceilings"] | {f"{name}/rnnjax": ratios(rows, value) for name, value in ends.items()}


if __name__ == "__main__":
  device_mesh.use_cores(0)  # all of them: zero rows can be shared by any number
  cli.main(Config, run, PRESETS)
