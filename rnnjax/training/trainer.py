"""A run: training with progress, records, checkpoints, resumption and signals, once for all."""

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


class TrainerState(NamedTuple):
  """What a checkpoint holds.

  Attributes:
    state: the newest state; its step is the place in the data, too.
    best: the parameters that did best on the validation part.
    score: how well they did; a loss counts negative.
    seconds: of training so far.
    looked: the step of the last look at the validation part.
    since: the metrics of the steps since then, {name: Mean}.
  """

  train_state: TrainState
  best_params: Any
  best_score: float
  seconds: float
  last_eval_step: int
  train_metrics: dict[str, Mean]


class Preempted(SystemExit):
  """A signal ended the run after a step; all was saved."""


class Trainer:
  """Trains a task, chooses on the validation part, tests once.

      with Run(config, task, data, optimizer, steps) as run:
        for state, metrics in run.train():
          ...
        scores = run.test()

  Ctrl-C or SIGTERM ends the step, saves, and says how to resume; the same configuration and `out`
  resume bit for bit, as they do after a run that was killed.

  Args:
    config: a dataclass with `seed` and `out`, a folder or "" for none.
    task: what is learnt.
    data: has train (stream, len), valid and test (iterables of batches).
    optimizer: how.
    steps: of the whole training.
    average: how the parameters are averaged; None for not at all.
    every: steps between two looks at the validation part; None for an epoch.
    score: the validation metric that chooses: the more the better, but of a loss the less.
    beside: {name: value of JSON}, what must lie beside the parameters to make use of them, such as
      a vocabulary; one file each in `out`.
    watch: parameters -> {name: number}, recorded at each look; and beside it the norm of each
      parameter's gradient.
    mesh: how the devices are laid out, as `device_mesh.parse` reads it.
    accumulate, precision: as for `gradients.gradient`.
    save_every: steps between two checkpoints beside those of each look; 0 for none.
    profile: a few steps are traced, for TensorBoard or Perfetto, into OUT/profile.

  Raises:
    BadInput: `out` is the place of another run, the devices cannot share a batch, or the task has
      no such score.
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
    self.config, self.data, self.optimizer, self.num_steps = config, data, optimizer, num_steps
    self.averaging, self.grad_accum_steps, self.dtype = averaging, grad_accum_steps, dtype
    self.eval_every, self.metric = eval_every or len(data.train), metric
    self.checkpoint_every, self.metric_sign = (
      checkpoint_every or self.eval_every,
      -1 if metric == "loss" else 1,
    )
    self.extras, self.param_stats_fn = extras or {}, param_stats_fn
    self.workdir = pathlib.Path(config.workdir).expanduser() if config.workdir else None
    self.mesh = device_mesh.make_mesh(data.train.batch_size, mesh_spec)
    if data.train.batch_size % (self.mesh.size * grad_accum_steps):
      raise InvalidInputError(
        f"a batch of {data.train.batch_size} rows on {self.mesh.size} devices has no {grad_accum_steps} equal "
        "parts; --batch_size must be a multiple of both together"
      )
    if profile and not self.workdir:
      raise InvalidInputError("--profile needs --workdir, where its trace is written")
    self.task, self.use_shard_map = task, device_mesh.parse_mesh_spec(mesh_spec)[0] == "shard_map"
    self.preemption, self.profiler = (
      PreemptionHandler(),
      Profiler(self.workdir / "profile" if profile else None),
    )
    self.timer, self.metrics_writer, self.checkpoints = StepTimer(), None, None
    example = next(data.train.stream())
    state = init_state(task, optimizer, example, jax.random.key(config.seed), bool(averaging))
    seen = jax.eval_shape(lambda *given: task.score(*given)[1], state.params, state.carry, example)
    if metric not in seen:
      raise InvalidInputError(
        f"score must be among what the task scores, {', '.join(seen)}; got {metric!r}"
      )
    # What is asked of shapes alone comes before the state lies on a mesh of typed axes.
    learnt = jax.eval_shape(task.loss, state.params, state.carry, example, state.key)[1]
    state = shard_state(self.mesh, state)
    best = jax.tree.map(jnp.copy, state.eval_params)
    norms = [f"gradient/{name}" for name in flatten_with_names(state.params) if param_stats_fn]
    self.zero_metrics = {name: Mean(0.0, 0.0) for name in (*learnt, *norms)}
    self.state = TrainerState(state, best, -math.inf, 0.0, 0, self.zero_metrics)
    if self.workdir:
      run_dir.create_run_dir(self.workdir, config, self.extras)
      self._open_checkpoints()
      self.state = self.checkpoints.restore(self.state) or self.state
    if self.step:
      logging.info("resuming at step %d of %d", self.step, num_steps)

  @property
  def step(self) -> int:
    """Steps taken so far."""
    return int(self.state.train_state.step)

  @property
  def num_params(self) -> int:
    """How many numbers are learnt."""
    return sum(p.size for p in jax.tree.leaves(self.state.train_state.params))

  @property
  def best_params(self) -> Params:
    """The parameters that did best on the validation part, on one device."""
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
    """Trains to the end; yields the state and metrics of each step.

    Raises:
      Diverged: a step would not be finite; the state before it is saved.
      Stopped: by a signal.
    """
    self.timer.reset()
    begun, before = time.perf_counter(), self.state.seconds
    stream = distributed.shard_batches_by_host(self.mesh, self.data.train).stream(self.step)
    task = sharding.with_shard_map(self.task, self.mesh) if self.use_shard_map else self.task
    loop = train_loop(
      task,
      self.optimizer,
      self.state.train_state,
      self.timer.time_batches(stream),
      average=self.averaging,
      mesh=self.mesh,
      diagnose=bool(self.param_stats_fn),
      accumulate=self.grad_accum_steps,
      precision=self.dtype,
    )
    due = self.step % self.eval_every == 0 or self.step == self.num_steps
    if self.step and due and self.state.last_eval_step < self.step:
      self._validate_and_save()  # which a signal cut short
    bar = tqdm.tqdm(
      total=self.num_steps,
      initial=self.step,
      unit="step",
      disable=None if distributed.is_primary_host() else True,
    )
    first = self.step + 1
    for step in range(first, self.num_steps + 1):
      self.profiler.step(step - first)
      try:
        state, found = next(loop)
      except DivergedError as error:
        self._save_last_finite(error.train_state)
        raise
      seconds = before + time.perf_counter() - begun
      since = metrics.merge_metrics(self.state.train_metrics, found)
      self.state = self.state._replace(train_state=state, seconds=seconds, train_metrics=since)
      yield state, found
      bar.update()
      end = step % self.eval_every == 0 or step == self.num_steps
      if end or step % 50 == 0:
        bar.set_postfix(loss=f"{since['loss'].value:.3f}")
      self._stop_if_signaled()
      if end:
        self._validate_and_save()
      elif step % self.checkpoint_every == 0:
        self._save()
    bar.close()

  def _validate_and_save(self):
    """Validates, keeps the best parameters, saves."""
    step, now, since = self.step, self.state.train_state.eval_params, self.state.train_metrics
    values = {f"train/{name}": mean.value for name, mean in since.items()} | self.timer.lap()
    scores = evaluate(self.task, now, self._iter_host_batches(self.data.valid), self.mesh)
    score, before = self.metric_sign * scores[self.metric], self.state.best_score
    # What is no number, as the score of nothing, is a bar to none, and better than none alone.
    if score > before or math.isnan(before) or (math.isnan(score) and before == -math.inf):
      best = jax.tree.map(jnp.copy, now)
      self.state = self.state._replace(best_params=best, best_score=score)
    self.state = self.state._replace(last_eval_step=step, train_metrics=self.zero_metrics)
    values |= {f"valid/{name}": value for name, value in scores.items()}
    params = (
      distributed.copy_to_local_device(self.mesh, self.state.train_state.params)
      if self.param_stats_fn
      else None
    )
    watched = self.param_stats_fn(params) if self.param_stats_fn else {}
    self.metrics_writer.write(step, **values, **watched)
    with tqdm.tqdm.external_write_mode(file=sys.stderr):
      brief = (item for item in values.items() if item[0].split("/")[0] in ("train", "valid"))
      shown = "  ".join(f"{name} {value:.4f}" for name, value in brief if "gradient/" not in name)
      logging.info("step %d/%d  %s  %.0f s", step, self.num_steps, shown, self.state.seconds)
    self._save(overwrite=True)  # it may have been saved before this look
    self.timer.reset()  # looking is no training

  def _open_checkpoints(self):
    from rnnjax.training.checkpoints import Checkpoints  # orbax takes seconds to import

    self.checkpoints = Checkpoints(self.workdir / "checkpoints")

  def _save(self, overwrite: bool = False):
    if self.checkpoints:
      self.checkpoints.save(self.step, self.state, overwrite)

  def _save_last_finite(self, state):
    """Saves a state that is good where the step after it is not."""
    self.state = self.state._replace(train_state=state)
    if self.step:
      self._save()

  def _stop_if_signaled(self):
    """Where a signal asks to: saves, in a folder of its own where none was given, and leaves."""
    number = self.preemption.poll()
    if not number:
      return
    if not self.checkpoints:
      self.workdir = pathlib.Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
      run_dir.create_run_dir(self.workdir, self.config, self.extras)
      self._open_checkpoints()
    self._save()
    logging.warning(
      "stopped after step %d of %d, which is saved in %s. The same %s resumes there.",
      self.step,
      self.num_steps,
      self.workdir,
      "command" if self.config.workdir else f"configuration with --workdir={self.workdir}",
    )
    raise Preempted(130 if number == signal.SIGINT else 0)

  def _iter_host_batches(self, batches: Iterable) -> Iterable:
    """This host's share of the batches, before each of which a signal is heard."""
    for batch in distributed.shard_batches_by_host(self.mesh, batches):
      self._stop_if_signaled()
      yield batch

  def test(self) -> dict[str, float]:
    """Reads the test part, once, with the parameters that did best in validation."""
    scores = evaluate(
      self.task, self.state.best_params, self._iter_host_batches(self.data.test), self.mesh
    )
    return {f"test/{name}": value for name, value in scores.items()} | {
      f"valid/{self.metric}": self.metric_sign * self.state.best_score,
      "parameters": self.num_params,
      "steps": self.step,
      "seconds": round(self.state.seconds, 1),
    }
