"""Trains experiments on one device, on four, and on four processes, and compares their curves.

  python launch/agree.py                   # all of them on their embedded data; some 20 minutes
  python launch/agree.py --experiments=imdb,tagging --workdir=/tmp/agree

Each trains for an epoch. The table says by how much the losses of training and validation differ
from those of one device at most; the exit code is 1 where it is more than 1e-5. That is a fault, or
a loss with kinks, at which roundings grow: JAX_ENABLE_X64=1 tells, for then there are none to grow.
"""

import importlib
import json
import pathlib
import shutil
import subprocess
import sys

import tqdm
from absl import app, flags

EXPERIMENTS = """
  imdb tagging char_lm word_lm translate summarize pronounce forecast music speech digits caption
  reading video lips memory
""".split()
SELECTED = flags.DEFINE_list("only", EXPERIMENTS, "which experiments")
WORKDIR = flags.DEFINE_string("out", "runs/agree", "folder of all trainings; what is there goes")
ROOT = pathlib.Path(__file__).parents[1]
SMALL_FLAGS = dict(
  hidden=8,
  batch=16,
  epochs=1,
  dataset="embedded",
  width=8,
  sample=0,
  split=1,
  limit=40,
  lengths="20",
  cell="gru",
)
DEVICE_SETUPS = {
  "one": ([sys.executable, "-m", "experiments.{name}"], "--mesh=batch:1"),
  "four devices": ([sys.executable, "-m", "experiments.{name}"], "--mesh=batch:4"),
  "four processes": (["launch/multiprocess", "4", "{name}"], "--mesh=batch:4"),
}
MAX_DIFFERENCE = 1e-5


def read_losses(workdir: pathlib.Path) -> list[float]:
  """The losses that a run recorded."""
  path = next(iter(sorted(workdir.rglob("metrics.jsonl"))))
  rows = map(json.loads, path.read_text().splitlines())
  return [row[name] for row in rows for name in ("train/loss", "valid/loss")]


def main(_):
  folder, worst = pathlib.Path(WORKDIR.value).resolve(), 0.0
  shutil.rmtree(folder, ignore_errors=True)
  for name in (bar := tqdm.tqdm(SELECTED.value, unit="experiment")):
    own = importlib.import_module(f"experiments.{name}").Config.__dataclass_fields__
    # One name may have two kinds: --fold is a fold here and shares there.
    kinds = {field: type(one.default) for field, one in own.items()}
    given = [f"--{field}={v}" for field, v in SMALL_FLAGS.items() if kinds.get(field) is type(v)]
    curves = {}
    for way, (command, mesh) in DEVICE_SETUPS.items():
      out = folder / name / way.replace(" ", "_")
      run = [part.format(name=name) for part in command] + [*given, mesh, f"--workdir={out}"]
      done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
      if done.returncode:
        (log := out.with_suffix(".log")).write_text(done.stderr, encoding="utf-8")
        sys.exit(f"{' '.join(run)} failed; what it said lies in {log}")
      curves[way] = read_losses(out)
    apart = {
      way: max(abs(a - b) for a, b in zip(losses, curves["one"], strict=True))
      for way, losses in curves.items()
      if way != "one"
    }
    worst = max(worst, *apart.values())
    bar.write(f"{name:10}" + "".join(f"  {way} {by:.1e}" for way, by in apart.items()), sys.stdout)
  sys.exit(worst > MAX_DIFFERENCE)


if __name__ == "__main__":
  app.run(main)
