"""Kills a training at random moments, again and again, and compares what it ends with.

  python launch/soak.py                  # 50 times, in runs/soak
  python launch/soak.py --num_kills=5 --workdir=/tmp/soak

Two trainings of one configuration: one is never disturbed; the other is killed at a moment drawn
from its first seconds, every second time while it writes a checkpoint, and started again. Both must
end with the same state, bit for bit.
"""

import pathlib
import random
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import tqdm
from absl import app, flags

from rnnjax.training.checkpoints import Checkpoints

NUM_KILLS = flags.DEFINE_integer("kills", 50, "how often", lower_bound=1)
WORKDIR = flags.DEFINE_string("out", "runs/soak", "folder of both trainings; what is there goes")
SEED = flags.DEFINE_integer("seed", 0, "of the moments")
MAX_KILL_DELAY = 12  # seconds till a kill
TRAIN_FLAGS = [
  "--dataset=embedded",
  "--hidden=8",
  "--embed_dim=8",
  "--num_layers=1",
  "--batch_size=32",
  "--checkpoint_every=10",
]
ROOT = pathlib.Path(__file__).parents[1]


def start_training(workdir: pathlib.Path, epochs: int, log) -> subprocess.Popen:
  """Starts the training, or goes on with it."""
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
  """Whether a checkpoint is being written."""
  return any("tmp" in path.name for path in (workdir / "checkpoints").glob("*"))


def kill_after(
  process: subprocess.Popen, workdir: pathlib.Path, delay: float, during_checkpoint: bool
) -> bool:
  """Kills after so many seconds, or amid the first checkpoint after them; whether it still ran."""
  begun = time.perf_counter()
  while process.poll() is None:
    if time.perf_counter() - begun > delay and (not during_checkpoint or is_checkpointing(workdir)):
      time.sleep(random.uniform(0, 0.02))
      process.kill()
      return process.wait() < 0
    time.sleep(0.001)
  return False


def load_state(workdir: pathlib.Path):
  """All that the training ended with, save how long it took."""
  tree = Checkpoints(workdir / "checkpoints").restore()
  tree["state"]["key"] = jax.random.key_data(tree["state"]["key"])
  return jax.device_get({name: part for name, part in tree.items() if name != "seconds"})


def main(_):
  folder = pathlib.Path(WORKDIR.value).resolve()
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  random.seed(SEED.value)
  epochs = 3 * NUM_KILLS.value
  calm, torn = folder / "calm", folder / "torn"
  with open(folder / "log", "w") as log:
    if start_training(calm, epochs, log).wait():
      sys.exit(f"the undisturbed training failed; see {folder / 'log'}")
    amid = 0
    for n in tqdm.trange(NUM_KILLS.value, unit="kill"):
      run = start_training(torn, epochs, log)
      if not kill_after(run, torn, random.uniform(0, MAX_KILL_DELAY), bool(n % 2)):
        sys.exit(f"the training ended after {n} kills, with code {run.returncode}; see the log")
      amid += is_checkpointing(torn)
    if start_training(torn, epochs, log).wait():
      sys.exit(f"the training does not go on; see {folder / 'log'}")
  leaves = [jax.tree.leaves(load_state(out)) for out in (calm, torn)]
  same = [np.array_equal(a, b) for a, b in zip(*leaves, strict=True)]
  print(
    f"{NUM_KILLS.value} kills, {amid} of them amid a checkpoint; of the state's {len(same)} arrays "
    f"{sum(same)} are the same, bit for bit"
  )
  sys.exit(not all(same))


if __name__ == "__main__":
  app.run(main)
