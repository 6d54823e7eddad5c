"""Kill a training run at random moments and compare its final state with an undisturbed run.

  python launch/soak.py                  # 50 kills, in runs/soak
  python launch/soak.py --num_kills=5 --workdir=/tmp/soak

Two runs have the same configuration. One is not disturbed. The other one is killed at a random
moment within its first seconds, every second time while a checkpoint is written, and started again.
Both must end with the same state, bit for bit.
"""

import argparse
import pathlib
import random
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import tqdm

from rnnjax.training.checkpoints import Checkpoints

MAX_KILL_DELAY = 12  # seconds from the start of a run to its kill, at most
TRAIN_FLAGS = [
  "--dataset=embedded",
  "--hidden_size=8",
  "--embed_dim=8",
  "--num_layers=1",
  "--batch_size=32",
  "--checkpoint_every=10",
]
ROOT = pathlib.Path(__file__).parents[1]


def parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--num_kills", type=int, default=50, help="number of kills, at least 1")
  parser.add_argument(
    "--workdir", default="runs/soak", help="folder of both runs; its content is deleted first"
  )
  parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
  args = parser.parse_args()
  if args.num_kills < 1:
    parser.error(f"--num_kills must be at least 1; got {args.num_kills}")
  return args


def start_training(workdir: pathlib.Path, epochs: int, log) -> subprocess.Popen:
  """Start or resume the training run in a folder."""
  command = [
    sys.executable,
    "-m",
    "experiments.imdb",
    *TRAIN_FLAGS,
    f"--epochs={epochs}",
    f"--workdir={workdir}",
  ]
  return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def is_checkpointing(workdir: pathlib.Path) -> bool:
  """Return whether a checkpoint is being written, or was when the run was killed."""
  return any("tmp" in path.name for path in (workdir / "checkpoints").glob("*"))


def kill_after(
  process: subprocess.Popen, workdir: pathlib.Path, delay: float, during_checkpoint: bool
) -> bool:
  """Kill a process after `delay` seconds, or during the first checkpoint after them.

  Returns:
    Whether the process was still running.
  """
  start = time.perf_counter()
  while process.poll() is None:
    is_due = time.perf_counter() - start > delay
    if is_due and (not during_checkpoint or is_checkpointing(workdir)):
      time.sleep(random.uniform(0, 0.02))
      process.kill()
      return process.wait() < 0
    time.sleep(0.001)
  return False


def load_state(workdir: pathlib.Path):
  """Return the final state of a run, without its duration."""
  tree = Checkpoints(workdir / "checkpoints").restore()
  tree["train_state"]["key"] = jax.random.key_data(tree["train_state"]["key"])
  return jax.device_get({name: value for name, value in tree.items() if name != "seconds"})


def main():
  args = parse_args()
  folder = pathlib.Path(args.workdir).resolve()
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  random.seed(args.seed)
  epochs = 3 * args.num_kills
  undisturbed, killed = folder / "undisturbed", folder / "killed"
  with open(folder / "log", "w") as log:
    if start_training(undisturbed, epochs, log).wait():
      sys.exit(f"the undisturbed run failed; see {folder / 'log'}")
    num_during_checkpoint = 0
    for n in tqdm.trange(args.num_kills, unit="kill"):
      run = start_training(killed, epochs, log)
      if not kill_after(run, killed, random.uniform(0, MAX_KILL_DELAY), bool(n % 2)):
        sys.exit(f"the run ended after {n} kills, with code {run.returncode}; see {folder / 'log'}")
      num_during_checkpoint += is_checkpointing(killed)
    if start_training(killed, epochs, log).wait():
      sys.exit(f"the killed run cannot be resumed; see {folder / 'log'}")
  leaves = [jax.tree.leaves(load_state(workdir)) for workdir in (undisturbed, killed)]
  is_equal = [np.array_equal(a, b) for a, b in zip(*leaves, strict=True)]
  print(
    f"{args.num_kills} kills, {num_during_checkpoint} of them during a checkpoint; "
    f"{sum(is_equal)} of the {len(is_equal)} arrays of the state are equal bit for bit"
  )
  sys.exit(not all(is_equal))


if __name__ == "__main__":
  main()
