"""Compare the losses of each experiment on one device, on four devices and on four processes.

  python launch/agree.py                   # all experiments on their embedded data; 20 minutes
  python launch/agree.py --experiments=imdb,tagging --workdir=/tmp/agree

Each experiment trains for one epoch. The table contains the largest difference of the training and
validation losses from those of one device. The exit code is 1 if it exceeds 1e-5. The cause is then
a bug, or a loss with kinks, at which rounding errors grow. With JAX_ENABLE_X64=1 rounding errors
are negligible, so that only a bug remains.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys

import tqdm

from experiments.common import commands

ROOT = pathlib.Path(__file__).parents[1]
SMALL_FLAGS = {
  "hidden_size": 8,
  "batch_size": 16,
  "epochs": 1,
  "dataset": "embedded",
  "embed_dim": 8,
  "sample_length": 0,
  "fold": 1,
  "max_train_length": 40,
  "lengths": "20",
  "cell": "gru",
}
DEVICE_SETUPS = {
  "one": ([sys.executable, "-m", "experiments.{name}"], "--mesh=batch:1"),
  "four devices": ([sys.executable, "-m", "experiments.{name}"], "--mesh=batch:4"),
  "four processes": (["launch/multiprocess", "4", "{name}"], "--mesh=batch:4"),
}
MAX_DIFFERENCE = 1e-5


def parse_args() -> argparse.Namespace:
  names = commands.training_commands()
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--experiments", default=",".join(names), help="experiments, separated by commas (default: all)"
  )
  parser.add_argument(
    "--workdir", default="runs/agree", help="folder of all runs; its content is deleted first"
  )
  args = parser.parse_args()
  if unknown := set(args.experiments.split(",")) - set(names):
    parser.error(f"--experiments must be some of {', '.join(names)}; got {', '.join(unknown)}")
  return args


def small_flags(name: str) -> list[str]:
  """Return the flags of SMALL_FLAGS that an experiment has."""
  fields = commands.load_command(name).Config.__dataclass_fields__
  return [f"--{flag}={value}" for flag, value in SMALL_FLAGS.items() if flag in fields]


def read_losses(workdir: pathlib.Path) -> list[float]:
  """Return the training and validation losses of a run, or of the first of several."""
  path = min(workdir.rglob("metrics.jsonl"))
  rows = map(json.loads, path.read_text().splitlines())
  return [row[name] for row in rows for name in ("train/loss", "valid/loss")]


def train(name: str, setup: str, folder: pathlib.Path) -> list[float]:
  """Train an experiment with a device setup, and return its losses."""
  command, mesh = DEVICE_SETUPS[setup]
  workdir = folder / name / setup.replace(" ", "_")
  run = [part.format(name=name) for part in command]
  run += [*small_flags(name), mesh, f"--workdir={workdir}"]
  done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
  if done.returncode:
    log = workdir.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(done.stderr, encoding="utf-8")
    sys.exit(f"{' '.join(run)} failed; see {log}")
  return read_losses(workdir)


def main():
  args = parse_args()
  folder, largest = pathlib.Path(args.workdir).resolve(), 0.0
  shutil.rmtree(folder, ignore_errors=True)
  for name in (progress_bar := tqdm.tqdm(args.experiments.split(","), unit="experiment")):
    losses = {setup: train(name, setup, folder) for setup in DEVICE_SETUPS}
    differences = {
      setup: max(abs(a - b) for a, b in zip(losses[setup], losses["one"], strict=True))
      for setup in DEVICE_SETUPS
      if setup != "one"
    }
    largest = max(largest, *differences.values())
    columns = "".join(f"  {setup} {value:.1e}" for setup, value in differences.items())
    progress_bar.write(f"{name:10}{columns}", sys.stdout)
  sys.exit(largest > MAX_DIFFERENCE)


if __name__ == "__main__":
  main()
