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
from rnnjax.training.averaging import Average
from rnnjax.training.metrics import Mean
from rnnjax.training.preemption import Signals
from rnnjax.training.profiler import Trace
from rnnjax.training.step_timer import Clock
from rnnjax.training.tasks import Task
from rnnjax.training.train_step import Diverged, State, evaluate, place, start, train
from rnnjax.types import BadInput, Params, named


class Progress(NamedTuple):
  """What a checkpoint holds.

  Attributes:
    state: the newest state; its step is the place in the data, too.
    best: the parameters that did best on the validation part.
    score: how well they did; a loss counts negative.
    seconds: of training so far.
    looked: the step of the last look at the validation part.
    since: the metrics of the steps since then, {name: Mean}.
  """

  state: State
  best: Any
  score: float
  seconds: float
  looked: int
  since: dict[str, Mean]


class Stopped(SystemExit):
  """A signal ended the run after a step; all was saved."""


class Run:
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
    steps: int,
    *,
    average: Average | None = None,
    every: int | None = None,
    score: str = "accuracy",
    beside: dict[str, Any] | None = None,
    watch: Callable[[Any], dict[str, float]] | None = None,
    mesh: str = "",
    accumulate: int = 1,
    precision: str = "float32",
    save_every: int = 0,
    profile: bool = False,
  ):
    self.config, self.data, self.optimizer, self.steps = config, data, optimizer, steps
    self.average, self.accumulate, self.precision = average, accumulate, precision
    self.every, self.metric = every or len(data.train), score
    self.save_every, self.sign = save_every or self.every, -1 if score == "loss" else 1
    self.beside, self.watch = beside or {}, watch
    self.out = pathlib.Path(config.out).expanduser() if config.out else None
    self.mesh = device_mesh.mesh(data.train.batch, mesh)
    if data.train.batch % (self.mesh.size * accumulate):
      raise BadInput(
        f"a batch of {data.train.batch} rows on {self.mesh.size} devices has no {accumulate} equal "
        "parts; --batch must be a multiple of both together"
      )
    if profile and not self.out:
      raise BadInput("--profile needs --out, where its trace is written")
    self.task, self.alone = task, device_mesh.parse(mesh)[0] == "shard_map"
    self.signals, self.trace = Signals(), Trace(self.out / "profile" if profile else None)
    self.clock, self.records, self.checkpoints = Clock(), None, None
    example = next(data.train.stream())
    state = start(task, optimizer, example, jax.random.key(config.seed), bool(average))
    seen = jax.eval_shape(lambda *given: task.score(*given)[1], state.params, state.carry, example)
    if score not in seen:
      raise BadInput(f"score must be among what the task scores, {', '.join(seen)}; got {score!r}")
    # What is asked of shapes alone comes before the state lies on a mesh of typed axes.
    learnt = jax.eval_shape(task.loss, state.params, state.carry, example, state.key)[1]
    state = place(self.mesh, state)
    best = jax.tree.map(jnp.copy, state.evaluated)
    norms = [f"gradient/{name}" for name in named(state.params) if watch]
    self.zero = {name: Mean(0.0, 0.0) for name in (*learnt, *norms)}
    self.progress = Progress(state, best, -math.inf, 0.0, 0, self.zero)
    if self.out:
      run_dir.claim(self.out, config, self.beside)
      self._open()
      self.progress = self.checkpoints.restore(self.progress) or self.progress
    if self.step:
      logging.info("resuming at step %d of %d", self.step, steps)

  @property
  def step(self) -> int:
    """Steps taken so far."""
    return int(self.progress.state.step)

  @property
  def parameters(self) -> int:
    """How many numbers are learnt."""
    return sum(p.size for p in jax.tree.leaves(self.progress.state.params))

  @property
  def best(self) -> Params:
    """The parameters that did best on the validation part, on one device."""
    return distributed.local(self.mesh, self.progress.best)

  def __enter__(self):
    self.records = run_dir.Records(self.out, self.step)
    self.signals.__enter__()
    return self

  def __exit__(self, *_):
    self.signals.__exit__()
    self.trace.close()
    self.records.close()
    if self.checkpoints:
      self.checkpoints.close()

  def train(self) -> Iterator[tuple[State, dict[str, Mean]]]:
    """Trains to the end; yields the state and metrics of each step.

    Raises:
      Diverged: a step would not be finite; the state before it is saved.
      Stopped: by a signal.
    """
    self.clock.start()
    begun, before = time.perf_counter(), self.progress.seconds
    stream = distributed.share(self.mesh, self.data.train).stream(self.step)
    task = sharding.alone(self.task, self.mesh) if self.alone else self.task
    loop = train(
      task,
      self.optimizer,
      self.progress.state,
      self.clock.reading(stream),
      average=self.average,
      mesh=self.mesh,
      diagnose=bool(self.watch),
      accumulate=self.accumulate,
      precision=self.precision,
    )
    due = self.step % self.every == 0 or self.step == self.steps
    if self.step and due and self.progress.looked < self.step:
      self._look()  # which a signal cut short
    bar = tqdm.tqdm(
      total=self.steps, initial=self.step, unit="step", disable=None if distributed.lead() else True
    )
    first = self.step + 1
    for step in range(first, self.steps + 1):
      self.trace.step(step - first)
      try:
        state, found = next(loop)
      except Diverged as error:
        self._keep(error.state)
        raise
      seconds = before + time.perf_counter() - begun
      since = metrics.add(self.progress.since, found)
      self.progress = self.progress._replace(state=state, seconds=seconds, since=since)
      yield state, found
      bar.update()
      end = step % self.every == 0 or step == self.steps
      if end or step % 50 == 0:
        bar.set_postfix(loss=f"{since['loss'].value:.3f}")
      self._heed()
      if end:
        self._look()
      elif step % self.save_every == 0:
        self._save()
    bar.close()

  def _look(self):
    """Validates, keeps the best parameters, saves."""
    step, now, since = self.step, self.progress.state.evaluated, self.progress.since
    values = {f"train/{name}": mean.value for name, mean in since.items()} | self.clock.lap()
    scores = evaluate(self.task, now, self._heeding(self.data.valid), self.mesh)
    score, before = self.sign * scores[self.metric], self.progress.score
    # What is no number, as the score of nothing, is a bar to none, and better than none alone.
    if score > before or math.isnan(before) or (math.isnan(score) and before == -math.inf):
      best = jax.tree.map(jnp.copy, now)
      self.progress = self.progress._replace(best=best, score=score)
    self.progress = self.progress._replace(looked=step, since=self.zero)
    values |= {f"valid/{name}": value for name, value in scores.items()}
    params = distributed.local(self.mesh, self.progress.state.params) if self.watch else None
    watched = self.watch(params) if self.watch else {}
    self.records.write(step, **values, **watched)
    with tqdm.tqdm.external_write_mode(file=sys.stderr):
      brief = (item for item in values.items() if item[0].split("/")[0] in ("train", "valid"))
      shown = "  ".join(f"{name} {value:.4f}" for name, value in brief if "gradient/" not in name)
      logging.info("step %d/%d  %s  %.0f s", step, self.steps, shown, self.progress.seconds)
    self._save(again=True)  # it may have been saved before this look
    self.clock.start()  # looking is no training

  def _open(self):
    from rnnjax.training.checkpoints import Checkpoints  # orbax takes seconds to import

    self.checkpoints = Checkpoints(self.out / "checkpoints")

  def _save(self, again: bool = False):
    if self.checkpoints:
      self.checkpoints.save(self.step, self.progress, again)

  def _keep(self, state):
    """Saves a state that is good where the step after it is not."""
    self.progress = self.progress._replace(state=state)
    if self.step:
      self._save()

  def _heed(self):
    """Where a signal asks to: saves, in a folder of its own where none was given, and leaves."""
    number = self.signals.heard()
    if not number:
      return
    if not self.checkpoints:
      self.out = pathlib.Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
      run_dir.claim(self.out, self.config, self.beside)
      self._open()
    self._save()
    logging.warning(
      "stopped after step %d of %d, which is saved in %s. The same %s resumes there.",
      self.step,
      self.steps,
      self.out,
      "command" if self.config.out else f"configuration with --out={self.out}",
    )
    raise Stopped(130 if number == signal.SIGINT else 0)

  def _heeding(self, batches: Iterable) -> Iterable:
    """This host's share of the batches, before each of which a signal is heard."""
    for batch in distributed.share(self.mesh, batches):
      self._heed()
      yield batch

  def test(self) -> dict[str, float]:
    """Reads the test part, once, with the parameters that did best in validation."""
    scores = evaluate(self.task, self.progress.best, self._heeding(self.data.test), self.mesh)
    return {f"test/{name}": value for name, value in scores.items()} | {
      f"valid/{self.metric}": self.sign * self.progress.score,
      "parameters": self.parameters,
      "steps": self.step,
      "seconds": round(self.progress.seconds, 1),
    }
