"""Functions to train and test a configuration, load saved runs, and name output files."""

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
  """Return the keyword arguments of `Trainer` that a `TrainConfig` determines."""
  return {
    "mesh_spec": config.mesh,
    "dtype": config.dtype,
    "grad_accum_steps": config.grad_accum_steps,
    "checkpoint_every": config.checkpoint_every,
    "profile": config.profile,
    "param_stats_fn": recurrent_spectral_radii if config.log_gradients else None,
  }


@functools.cache  # jit recompiles for every new optimizer object
def make_optimizer(
  learning_rate: float,
  num_steps: int,
  schedule: str,
  warmup_fraction: float,
  weight_decay: float,
  max_grad_norm: float,
):
  """Return AdamW with the given learning-rate schedule and gradient clipping.

  A `max_grad_norm` of 0 disables clipping.
  """
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
  """Train a task with the given configuration, and return the trainer.

  Args:
    config: a `TrainConfig`.
    task: the task, passed to `Trainer`.
    data: the batches, passed to `Trainer`.
    schedule: the learning-rate schedule, passed to `optimizers.make_schedule`.
    warmup_fraction: the fraction of warmup steps, passed to `optimizers.make_schedule`.
    weight_decay: the weight decay, passed to `optimizers.adam`.
    max_grad_norm: the gradient norm above which gradients are clipped; 0 for no clipping.
    target_score: the validation score at which training stops early. The score of a loss is the
      negative loss.
    stop_on_divergence: whether training ends without an error at a non-finite step; if False,
      DivergedError is raised.
    **trainer_kwargs: additional arguments of `Trainer`.
  """
  num_steps = config.epochs * len(data.train)
  optimizer = make_optimizer(
    config.learning_rate, num_steps, schedule, warmup_fraction, weight_decay, max_grad_norm
  )
  with training.Trainer(
    config,
    task,
    data,
    optimizer,
    num_steps,
    averaging=averaging.ema(config.ema_decay),
    **trainer_options(config),
    **trainer_kwargs,
  ) as trainer:
    try:
      for _ in trainer.train():
        if trainer.state.best_score >= target_score:
          break
    except FloatingPointError as error:
      if not stop_on_divergence:
        raise
      logging.warning("%s", error)
  return trainer


def train_and_test(config, task, data, dataset_name: str, *args, **trainer_kwargs):
  """Train a task (see `train`), and evaluate the best parameters on the test set.

  Returns:
    The parameters with the best validation score, and a dict with "dataset", "cell", "seed" and
    the scores.
  """
  trainer = train(config, task, data, *args, **trainer_kwargs)
  scores = {"dataset": dataset_name, "cell": config.cell, "seed": config.seed} | trainer.test()
  return trainer.best_params, scores


def load_run(config_class, workdir: str, required_extra: str, **overrides):
  """Load a run and its configuration from a run directory.

  Args:
    config_class: the configuration class of the experiment.
    workdir: the run directory.
    required_extra: the key that `SavedRun.extras` must contain.
    **overrides: values that replace fields of the saved configuration.

  Returns:
    The `SavedRun`, and the configuration of the run.

  Raises:
    InvalidInputError: the directory contains no run, the run belongs to another experiment, or the
      run was saved by another version and has unknown fields or lacks `required_extra`.
  """
  saved, experiment = training.load_saved_run(workdir), run_dir.experiment_name(config_class)
  if saved.experiment not in ("", experiment):
    raise InvalidInputError(
      f"{workdir!r} is the --workdir of another experiment, {saved.experiment}, not of {experiment}"
    )
  names = {field.name for field in dataclasses.fields(config_class)}
  if not names >= set(saved.config) or required_extra not in saved.extras:
    raise InvalidInputError(
      f"{workdir!r} is the --workdir of another experiment, or of another version of this one"
    )
  return saved, config_class(**saved.config | overrides)


def figure_file(workdir: str, name: str) -> pathlib.Path:
  """Return the path WORKDIR/figures/NAME, and create its parent folder."""
  return run_file(workdir, f"figures/{name}")


def run_file(workdir: str, name: str) -> pathlib.Path:
  """Return the path WORKDIR/NAME, and create its parent folder.

  On hosts other than the primary host, the result is a temporary path instead, so that only the
  primary host writes WORKDIR/NAME.
  """
  folder = workdir if distributed.is_primary_host() else _temporary_dir()
  path = pathlib.Path(folder).expanduser() / name
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


@functools.cache
def _temporary_dir() -> str:
  """Return a folder that is deleted when the process ends."""
  folder = tempfile.TemporaryDirectory()
  atexit.register(folder.cleanup)
  return folder.name
