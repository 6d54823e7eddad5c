"""How an experiment learns what it describes, and restores it; where the files of a run go."""

import atexit
import dataclasses
import functools
import logging
import math
import pathlib
import tempfile

from rnnjax import training
from rnnjax.analysis.gradient_flow import recurrent_spectral_radii
from rnnjax.training import averaging, distributed, optimizers, run_dir
from rnnjax.types import InvalidInputError


def trainer_options(config) -> dict:
  """What every run is told by its configuration; with --log_gradients it records the radii of U."""
  return {
    "mesh_spec": config.mesh,
    "dtype": config.dtype,
    "grad_accum_steps": config.grad_accum_steps,
    "checkpoint_every": config.checkpoint_every,
    "profile": config.profile,
    "param_stats_fn": recurrent_spectral_radii if config.log_gradients else None,
  }


@functools.cache  # what is compiled for one training serves others like it
def make_optimizer(
  learning_rate: float,
  num_steps: int,
  schedule: str,
  warmup_fraction: float,
  weight_decay: float,
  max_grad_norm: float,
):
  """Adam, with a learning rate of such a course."""
  learning_rate = optimizers.make_schedule(learning_rate, num_steps, schedule, warmup_fraction)
  return training.adam(
    learning_rate, weight_decay=weight_decay, max_grad_norm=max_grad_norm or math.inf
  )


def train(
  config,
  task,
  data,
  schedule: str = "linear",
  warmup_fraction: float = 0.05,
  *,
  weight_decay: float = 0.0,
  max_grad_norm: float = 1.0,
  target_score: float = math.inf,
  stop_on_divergence: bool = False,
  **trainer_kwargs,
) -> training.Trainer:
  """Trains as a configuration says, and chooses on the validation part; returns what can be tested.

  Args:
    config, task, data, **own: as for `training.Run`.
    decay, warmup: of the learning rate, as for `optimizers.schedule`.
    weight_decay, clip: as for `optimizers.adam`; clip 0 for none.
    enough: the score on the validation part, a loss negative, that ends the training.
    lenient: a step that would not be finite ends the training, too, and not the program.
  """
  steps = config.epochs * len(data.train)
  adam = make_optimizer(
    config.learning_rate, steps, schedule, warmup_fraction, weight_decay, max_grad_norm
  )
  average = averaging.ema(config.ema_decay)
  with training.Trainer(
    config, task, data, adam, steps, averaging=average, **trainer_options(config), **trainer_kwargs
  ) as run:
    try:
      for _ in run.train():
        if run.state.best_score >= target_score:
          break
    except FloatingPointError as error:
      if not stop_on_divergence:
        raise
      logging.warning("%s", error)
  return run


def train_and_test(config, task, data, dataset_name: str, *args, **trainer_kwargs):
  """As `fit`, and tests once, on a data set of that name; returns the parameters that did best, and
  the scores."""
  run = train(config, task, data, *args, **trainer_kwargs)
  scores = {"dataset": dataset_name, "cell": config.cell, "seed": config.seed} | run.test()
  return run.best_params, scores


def load_run(config_class, workdir: str, required_extra: str, **overrides):
  """What a run with --workdir has saved, and its configuration, of this class; changes win.

  Raises:
    BadInput: there is none, or of another experiment, or version of it: of other fields, or without
      what its parameters need beside them.
  """
  saved, own = training.load_saved_run(workdir), run_dir.experiment_name(config_class)
  if saved.experiment not in ("", own):
    raise InvalidInputError(
      f"{workdir!r} is the --workdir of another experiment, {saved.experiment}, not of {own}"
    )
  names = {field.name for field in dataclasses.fields(config_class)}
  if not names >= set(saved.config) or required_extra not in saved.extras:
    raise InvalidInputError(
      f"{workdir!r} is the --workdir of another experiment, or of another version of this one"
    )
  return saved, config_class(**saved.config | overrides)


def figure_file(workdir: str, name: str) -> pathlib.Path:
  """Where a run's figure goes, OUT/figures/NAME; the folder is made."""
  return run_file(workdir, f"figures/{name}")


def run_file(workdir: str, name: str) -> pathlib.Path:
  """Where a file of a run goes, OUT/NAME; on hosts that do not write, in a folder that will go."""
  path = (
    pathlib.Path(workdir if distributed.is_primary_host() else _temporary_dir()).expanduser() / name
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


@functools.cache
def _temporary_dir() -> str:
  """A folder that goes when the process ends."""
  made = tempfile.TemporaryDirectory()
  atexit.register(made.cleanup)
  return made.name
