"""Kills a training at random moments, again and again, and compares what it ends with.

  python launch/soak.py                  # 50 times, in runs/soak
  python launch/soak.py --kills=5 --out=/tmp/soak

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

KILLS = flags.DEFINE_integer("kills", 50, "how often", lower_bound=1)
OUT = flags.DEFINE_string("out", "runs/soak", "folder of both trainings; what is there goes")
SEED = flags.DEFINE_integer("seed", 0, "of the moments")
LONGEST = 12  # seconds till a kill
FLAGS = [
  "--dataset=embedded",
  "--hidden=8",
  "--width=8",
  "--layers=1",
  "--batch=32",
  "--save_every=10",
]
ROOT = pathlib.Path(__file__).parents[1]


def begin(out: pathlib.Path, epochs: int, log) -> subprocess.Popen:
  """Starts the training, or goes on with it."""
  command = [sys.executable, "-m", "experiments.imdb", *FLAGS, f"--epochs={epochs}", f"--out={out}"]
  return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def writing(out: pathlib.Path) -> bool:
  """Whether a checkpoint is being written."""
  return any("tmp" in path.name for path in (out / "checkpoints").glob("*"))


def kill(run: subprocess.Popen, out: pathlib.Path, seconds: float, amid: bool) -> bool:
  """Kills after so many seconds, or amid the first checkpoint after them; whether it still ran."""
  begun = time.perf_counter()
  while run.poll() is None:
    if time.perf_counter() - begun > seconds and (not amid or writing(out)):
      time.sleep(random.uniform(0, 0.02))
      run.kill()
      return run.wait() < 0
    time.sleep(0.001)
  return False


def state(out: pathlib.Path):
  """All that the training ended with, save how long it took."""
  tree = Checkpoints(out / "checkpoints").restore()
  tree["state"]["key"] = jax.random.key_data(tree["state"]["key"])
  return jax.device_get({name: part for name, part in tree.items() if name != "seconds"})


def main(_):
  folder = pathlib.Path(OUT.value).resolve()
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  random.seed(SEED.value)
  epochs = 3 * KILLS.value
  calm, torn = folder / "calm", folder / "torn"
  with open(folder / "log", "w") as log:
    if begin(calm, epochs, log).wait():
      sys.exit(f"the undisturbed training failed; see {folder / 'log'}")
    amid = 0
    for n in tqdm.trange(KILLS.value, unit="kill"):
      run = begin(torn, epochs, log)
      if not kill(run, torn, random.uniform(0, LONGEST), bool(n % 2)):
        sys.exit(f"the training ended after {n} kills, with code {run.returncode}; see the log")
      amid += writing(torn)
    if begin(torn, epochs, log).wait():
      sys.exit(f"the training does not go on; see {folder / 'log'}")
  leaves = [jax.tree.leaves(state(out)) for out in (calm, torn)]
  same = [np.array_equal(a, b) for a, b in zip(*leaves, strict=True)]
  print(
    f"{KILLS.value} kills, {amid} of them amid a checkpoint; of the state's {len(same)} arrays "
    f"{sum(same)} are the same, bit for bit"
  )
  sys.exit(not all(same))


if __name__ == "__main__":
  app.run(main)
