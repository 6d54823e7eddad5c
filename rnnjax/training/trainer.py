"""The trainer: training with validation, metrics, checkpoints, resumption and signals."""

import logging
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tqdm

from rnnjax.training import device_mesh, distributed, metrics, run_dir, sharding
from rnnjax.training.averaging import AveragingSchedule
from rnnjax.training.metrics import Mean
from rnnjax.training.preemption import PreemptionHandler
from rnnjax.training.profiler import Profiler
from rnnjax.training.step_timer import StepTimer
from rnnjax.training.tasks import Task
from rnnjax.training.train_step import (
  DivergedError,
  TrainState,
  evaluate,
  init_state,
  shard_state,
  train_loop,
)
from rnnjax.types import InvalidInputError, Params, flatten_with_names

PROGRESS_EVERY = 50  # steps between two updates of the loss in the progress bar


class TrainerState(NamedTuple):
  """The content of a checkpoint. The names of the fields are part of the file format.

  Attributes:
    train_state: the newest state. Its step is also the position in the data.
    best_params: the parameters with the best validation score.
    best_score: the best validation score, where higher is better (a loss is negated). −∞ before
      the first validation.
    seconds: the time of training so far.
    last_eval_step: the step of the last validation.
    train_metrics: the metrics {name: Mean} of the steps since the last validation.
  """

  train_state: TrainState
  best_params: Any
  best_score: float
  seconds: float
  last_eval_step: int
  train_metrics: dict[str, Mean]


class Preempted(SystemExit):
  """Raised after a signal stopped the run. The last step is saved."""


class Trainer:
  """Trainer of a task: trains, selects the best parameters by validation, and tests them.

      with Trainer(config, task, data, optimizer, num_steps) as trainer:
        for state, metrics in trainer.train():
          ...
        scores = trainer.test()

  On Ctrl-C or SIGTERM, training stops after the current step, saves a checkpoint, and logs how to
  resume. A run with the same configuration and workdir resumes bit for bit, even after the process
  was killed.

  Args:
    config: a dataclass with `seed` and `workdir`, the run directory or "" for none.
    task: the task.
    data: an object with `train`, `valid` and `test`. `train` has `stream`, `batch_size` and a
      length; `valid` and `test` are iterables of batches.
    optimizer: the optimizer.
    num_steps: the total number of training steps.
    averaging: the schedule of parameter averaging; None for no average.
    eval_every: number of steps between two validations; None for one epoch.
    metric: the validation metric that selects the best parameters. The highest value is the best,
      except for "loss", where the lowest value is the best.
    extras: {name: JSON value}, additional data that inference needs, such as a vocabulary; each
      entry is saved as a JSON file in the run directory.
    param_stats_fn: params -> {name: number}, additional metrics at each validation. If it is set,
      the norms of the gradients are written too.
    mesh_spec: the device mesh, as for `device_mesh.parse_mesh_spec`.
    grad_accum_steps, dtype: as for `compute_gradients`.
    checkpoint_every: number of steps between checkpoints, in addition to the checkpoint at each
      validation; 0 for no additional checkpoints.
    profile: whether to write a profiler trace of a few steps to WORKDIR/profile.

  Raises:
    InvalidInputError: workdir belongs to another run, the batch cannot be divided among the devices
      and accumulation steps, `profile` is set without workdir, or `metric` is not a score of the
      task.
  """

  def __init__(
    self,
    config,
    task: Task,
    data,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    averaging: AveragingSchedule | None = None,
    eval_every: int | None = None,
    metric: str = "accuracy",
    extras: dict[str, Any] | None = None,
    param_stats_fn: Callable[[Any], dict[str, float]] | None = None,
    mesh_spec: str = "",
    grad_accum_steps: int = 1,
    dtype: str = "float32",
    checkpoint_every: int = 0,
    profile: bool = False,
  ):
    self.config, self.task, self.data = config, task, data
    self.optimizer, self.num_steps, self.averaging = optimizer, num_steps, averaging
    self.grad_accum_steps, self.dtype = grad_accum_steps, dtype
    self.extras, self.param_stats_fn = extras or {}, param_stats_fn
    self.metric, self.metric_sign = metric, -1 if metric == "loss" else 1
    self.eval_every = eval_every or len(data.train)
    self.checkpoint_every = checkpoint_every or self.eval_every
    self.workdir = pathlib.Path(config.workdir).expanduser() if config.workdir else None

    # Devices.
    batch_size = data.train.batch_size
    self.mesh = device_mesh.make_mesh(batch_size, mesh_spec)
    self.use_shard_map = device_mesh.parse_mesh_spec(mesh_spec)[0] == "shard_map"
    if batch_size % (self.mesh.size * grad_accum_steps):
      raise InvalidInputError(
        f"--batch_size must be a multiple of devices × --grad_accum_steps = {self.mesh.size} × "
        f"{grad_accum_steps}; got {batch_size}"
      )

    # Tools of the loop.
    if profile and not self.workdir:
      raise InvalidInputError("--profile needs --workdir, where the trace is written")
    self.profiler = Profiler(self.workdir / "profile" if profile else None)
    self.preemption, self.timer = PreemptionHandler(), StepTimer()
    self.metrics_writer = self.checkpoints = None

    # Initial state, and the names of the metrics.
    example = next(data.train.stream())
    state = init_state(task, optimizer, example, jax.random.key(config.seed), bool(averaging))
    score_metrics = jax.eval_shape(task.score, state.params, state.carry, example)[1]
    if metric not in score_metrics:
      raise InvalidInputError(
        f"metric must be one of the scores of the task, {', '.join(score_metrics)}; got {metric!r}"
      )
    # eval_shape precedes shard_state, because it rejects arrays sharded over explicit mesh axes.
    loss_metrics = jax.eval_shape(task.loss, state.params, state.carry, example, state.key)[1]
    metric_names = [*loss_metrics]
    if param_stats_fn:
      metric_names += [f"gradient/{name}" for name in flatten_with_names(state.params)]
    self.zero_metrics = {name: Mean(0.0, 0.0) for name in metric_names}
    state = shard_state(self.mesh, state)
    best_params = jax.tree.map(jnp.copy, state.eval_params)  # the step donates the state's arrays
    self.state = TrainerState(state, best_params, -math.inf, 0.0, 0, self.zero_metrics)

    # Resumption.
    if self.workdir:
      run_dir.create_run_dir(self.workdir, config, self.extras)
      self._open_checkpoints()
      self.state = self.checkpoints.restore(self.state) or self.state
    if self.step:
      logging.info("resuming at step %d of %d", self.step, num_steps)

  @property
  def step(self) -> int:
    """The number of steps taken."""
    return int(self.state.train_state.step)

  @property
  def num_params(self) -> int:
    """The number of parameters."""
    return sum(p.size for p in jax.tree.leaves(self.state.train_state.params))

  @property
  def best_params(self) -> Params:
    """The parameters with the best validation score, on one device."""
    return distributed.copy_to_local_device(self.mesh, self.state.best_params)

  def __enter__(self):
    self.metrics_writer = run_dir.MetricsWriter(self.workdir, self.step)
    self.preemption.__enter__()
    return self

  def __exit__(self, *_):
    self.preemption.__exit__()
    self.profiler.close()
    self.metrics_writer.close()
    if self.checkpoints:
      self.checkpoints.close()

  def train(self) -> Iterator[tuple[TrainState, dict[str, Mean]]]:
    """Train until the last step; yield the state and the metrics of each step.

    Raises:
      DivergedError: a step has non-finite values; the state before that step is saved if there is a
        workdir.
      Preempted: a signal stopped the run.
    """
    self.timer.reset()
    start_time, seconds_before = time.perf_counter(), self.state.seconds
    # The n-th batch is a function of the seed and n, so a resumed run continues at its step.
    stream = distributed.shard_batches_by_host(self.mesh, self.data.train).stream(self.step)
    task = sharding.with_shard_map(self.task, self.mesh) if self.use_shard_map else self.task
    loop = train_loop(
      task,
      self.optimizer,
      self.state.train_state,
      self.timer.time_batches(stream),
      averaging=self.averaging,
      mesh=self.mesh,
      log_gradients=bool(self.param_stats_fn),
      grad_accum_steps=self.grad_accum_steps,
      dtype=self.dtype,
    )
    # If a signal interrupted the validation of this step, repeat the validation.
    if self.step and self._is_eval_step(self.step) and self.state.last_eval_step < self.step:
      self._validate_and_save()
    progress_bar = tqdm.tqdm(
      total=self.num_steps,
      initial=self.step,
      unit="step",
      disable=None if distributed.is_primary_host() else True,  # None: only in a terminal
    )
    first_step = self.step + 1
    for step in range(first_step, self.num_steps + 1):
      self.profiler.step(step - first_step)
      try:
        state, step_metrics = next(loop)
      except DivergedError as error:
        self._save_last_finite(error.train_state)
        raise
      seconds = seconds_before + time.perf_counter() - start_time
      train_metrics = metrics.merge_metrics(self.state.train_metrics, step_metrics)
      self.state = self.state._replace(
        train_state=state, seconds=seconds, train_metrics=train_metrics
      )
      yield state, step_metrics
      progress_bar.update()
      if self._is_eval_step(step) or step % PROGRESS_EVERY == 0:
        progress_bar.set_postfix(loss=f"{train_metrics['loss'].value:.3f}")
      self._stop_if_signaled()
      if self._is_eval_step(step):
        self._validate_and_save()
      elif step % self.checkpoint_every == 0:
        self._save()
    progress_bar.close()

  def _is_eval_step(self, step: int) -> bool:
    return step % self.eval_every == 0 or step == self.num_steps

  def _validate_and_save(self):
    """Validate, update the best parameters, write the metrics, and save a checkpoint."""
    step, params = self.step, self.state.train_state.eval_params
    values = {f"train/{name}": mean.value for name, mean in self.state.train_metrics.items()}
    values |= self.timer.lap()
    scores = evaluate(self.task, params, self._iter_host_batches(self.data.valid), self.mesh)
    values |= {f"valid/{name}": value for name, value in scores.items()}
    if self._is_best(score := self.metric_sign * scores[self.metric]):
      # A copy, because the next step overwrites the arrays of the state.
      best_params = jax.tree.map(jnp.copy, params)
      self.state = self.state._replace(best_params=best_params, best_score=score)
    self.state = self.state._replace(last_eval_step=step, train_metrics=self.zero_metrics)
    param_stats = {}
    if self.param_stats_fn:
      train_params = self.state.train_state.params
      param_stats = self.param_stats_fn(distributed.copy_to_local_device(self.mesh, train_params))
    self.metrics_writer.write(step, **values, **param_stats)
    self._log_metrics(step, values)
    self._save(overwrite=True)  # the step may have been saved before its validation
    self.timer.reset()  # validation is not part of the time of steps

  def _is_best(self, score: float) -> bool:
    """Return whether a validation score is the best so far.

    A NaN score is the best only if there is no earlier score, and any later score replaces it.
    """
    best = self.state.best_score
    return score > best or math.isnan(best) or (math.isnan(score) and best == -math.inf)

  def _log_metrics(self, step: int, values: dict[str, float]):
    """Log the metrics of training and validation in one line, above the progress bar."""
    shown = "  ".join(
      f"{name} {value:.4f}"
      for name, value in values.items()
      if name.startswith(("train/", "valid/")) and "gradient/" not in name
    )
    with tqdm.tqdm.external_write_mode(file=sys.stderr):
      logging.info("step %d/%d  %s  %.0f s", step, self.num_steps, shown, self.state.seconds)

  def _open_checkpoints(self):
    from rnnjax.training.checkpoints import Checkpoints  # importing Orbax takes seconds

    self.checkpoints = Checkpoints(self.workdir / "checkpoints")

  def _save(self, overwrite: bool = False):
    if self.checkpoints:
      self.checkpoints.save(self.step, self.state, overwrite)

  def _save_last_finite(self, state):
    """Save the last finite state after the following step diverged."""
    self.state = self.state._replace(train_state=state)
    if self.step:
      self._save()

  def _stop_if_signaled(self):
    """If a signal arrived, save a checkpoint (in a new workdir if none is set); raise Preempted."""
    signum = self.preemption.poll()
    if not signum:
      return
    if not self.checkpoints:
      self.workdir = pathlib.Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
      run_dir.create_run_dir(self.workdir, self.config, self.extras)
      self._open_checkpoints()
    self._save()
    logging.warning(
      "stopped after step %d of %d, saved in %s. The same %s resumes from there.",
      self.step,
      self.num_steps,
      self.workdir,
      "command" if self.config.workdir else f"configuration with --workdir={self.workdir}",
    )
    raise Preempted(130 if signum == signal.SIGINT else 0)

  def _iter_host_batches(self, batches: Iterable) -> Iterable:
    """Yield this host's batches, checking for a preemption signal before each one."""
    for batch in distributed.shard_batches_by_host(self.mesh, batches):
      self._stop_if_signaled()
      yield batch

  def test(self) -> dict[str, float]:
    """Evaluate the best parameters on the test set.

    Returns:
      A dict with "test/NAME" for each test score, "valid/METRIC" (the best validation score),
      "parameters" (their number), "steps" and "seconds".
    """
    scores = evaluate(
      self.task, self.state.best_params, self._iter_host_batches(self.data.test), self.mesh
    )
    return {f"test/{name}": value for name, value in scores.items()} | {
      f"valid/{self.metric}": self.metric_sign * self.state.best_score,
      "parameters": self.num_params,
      "steps": self.step,
      "seconds": round(self.state.seconds, 1),
    }
