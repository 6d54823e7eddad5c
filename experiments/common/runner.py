"""How an experiment learns what it describes, and restores it; where the files of a run go."""

import atexit
import dataclasses
import functools
import logging
import math
import pathlib
import tempfile

from rnnjax import training
from rnnjax.analysis.gradient_flow import radii
from rnnjax.training import averaging, distributed, optimizers, run_dir
from rnnjax.types import BadInput


def how(config) -> dict:
  """What every run is told by its configuration; with --diagnose it records the radii of U."""
  names = "mesh", "precision", "accumulate", "save_every", "profile"
  chosen = {name: getattr(config, name) for name in names}
  return chosen | {"watch": radii if config.diagnose else None}


@functools.cache  # what is compiled for one training serves others like it
def optimizer(rate: float, steps: int, decay: str, warmup: float, weight_decay: float, clip: float):
  """Adam, with a learning rate of such a course."""
  rate = optimizers.schedule(rate, steps, decay, warmup)
  return training.adam(rate, decay=weight_decay, clip=clip or math.inf)


def fit(
  config,
  task,
  data,
  decay: str = "linear",
  warmup: float = 0.05,
  *,
  weight_decay: float = 0.0,
  clip: float = 1.0,
  enough: float = math.inf,
  lenient: bool = False,
  **own,
) -> training.Run:
  """Trains as a configuration says, and chooses on the validation part; returns what can be tested.

  Args:
    config, task, data, **own: as for `training.Run`.
    decay, warmup: of the learning rate, as for `optimizers.schedule`.
    weight_decay, clip: as for `optimizers.adam`; clip 0 for none.
    enough: the score on the validation part, a loss negative, that ends the training.
    lenient: a step that would not be finite ends the training, too, and not the program.
  """
  steps = config.epochs * len(data.train)
  adam = optimizer(config.rate, steps, decay, warmup, weight_decay, clip)
  average = averaging.moving(config.average)
  with training.Run(config, task, data, adam, steps, average=average, **how(config), **own) as run:
    try:
      for _ in run.train():
        if run.progress.score >= enough:
          break
    except FloatingPointError as error:
      if not lenient:
        raise
      logging.warning("%s", error)
  return run


def learn(config, task, data, name: str, *args, **own):
  """As `fit`, and tests once, on a data set of that name; returns the parameters that did best, and
  the scores."""
  run = fit(config, task, data, *args, **own)
  scores = {"dataset": name, "cell": config.cell, "seed": config.seed} | run.test()
  return run.best, scores


def restore(Config, out: str, beside: str, **changes):
  """What a run with --out has saved, and its configuration, of this class; changes win.

  Raises:
    BadInput: there is none, or of another experiment, or version of it: of other fields, or without
      what its parameters need beside them.
  """
  saved, own = training.load(out), run_dir.experiment(Config)
  if saved.experiment not in ("", own):
    raise BadInput(f"{out!r} is the --out of another experiment, {saved.experiment}, not of {own}")
  names = {field.name for field in dataclasses.fields(Config)}
  if not names >= set(saved.config) or beside not in saved.beside:
    raise BadInput(f"{out!r} is the --out of another experiment, or of another version of this one")
  return saved, Config(**saved.config | changes)


def figure(out: str, name: str) -> pathlib.Path:
  """Where a run's figure goes, OUT/figures/NAME; the folder is made."""
  return place(out, f"figures/{name}")


def place(out: str, name: str) -> pathlib.Path:
  """Where a file of a run goes, OUT/NAME; on hosts that do not write, in a folder that will go."""
  path = pathlib.Path(out if distributed.lead() else _passing()).expanduser() / name
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


@functools.cache
def _passing() -> str:
  """A folder that goes when the process ends."""
  made = tempfile.TemporaryDirectory()
  atexit.register(made.cleanup)
  return made.name
