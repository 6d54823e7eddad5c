"""A run: training with progress, records, checkpoints, resumption and signals, once for all."""

import logging
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tqdm

from rnnjax.metrics import Mean
from rnnjax.tasks import Task
from rnnjax.training import devices, records
from rnnjax.training.averages import Average
from rnnjax.training.train import State, evaluate, start, train


class Progress(NamedTuple):
  """What a checkpoint holds.

  Attributes:
    state: the newest state; its step is the place in the data, too.
    best: the parameters that did best on the validation part.
    score: how well they did; a loss counts negative.
    seconds: of training so far.
  """

  state: State
  best: Any
  score: float
  seconds: float


class Stopped(SystemExit):
  """A signal ended the run after a step; all was saved."""


class Diverged(FloatingPointError):
  """The loss is not finite."""


class Run:
  """Trains a task, chooses on the validation part, tests once.

      with Run(config, task, data, optimizer, steps) as run:
        for state, metrics in run.train():
          ...
        scores = run.test()

  Ctrl-C or SIGTERM ends the step, saves, and says how to resume; the same configuration and `out`
  resume bit for bit.

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
  ):
    self.config, self.task, self.data = config, task, data
    self.optimizer, self.steps, self.average = optimizer, steps, average
    self.every, self.metric = every or len(data.train), score
    self.sign, self.beside, self.watch = -1 if score == "loss" else 1, beside or {}, watch
    self.out = pathlib.Path(config.out).expanduser() if config.out else None
    self.mesh = devices.mesh(data.train.batch)
    self.signal, self.handlers = None, {}
    self.records = self.checkpoints = None
    if self.out:
      records.claim(self.out, config, self.beside)
    example = next(data.train.stream())
    state = start(task, optimizer, example, jax.random.key(config.seed), bool(average))
    self.progress = Progress(state, jax.tree.map(jnp.copy, state.evaluated), -math.inf, 0.0)
    if self.out:
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

  def __enter__(self):
    self.records = records.Records(self.out)
    self.handlers = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
    return self

  def __exit__(self, *_):
    for number, handler in self.handlers.items():
      signal.signal(number, handler)
    self.records.close()
    if self.checkpoints:
      self.checkpoints.close()

  def _handle(self, number, _):
    if self.signal:
      raise KeyboardInterrupt  # asked twice: at once
    self.signal = number

  def train(self) -> Iterator[tuple[State, dict[str, Mean]]]:
    """Trains to the end; yields the state and metrics of each step.

    Raises:
      Diverged: the loss is not finite; the last good checkpoint stays.
      Stopped: by a signal.
    """
    begun, before = time.perf_counter(), self.progress.seconds
    loop = train(
      self.task, self.optimizer, self.progress.state, self.data.train.stream(self.step),
      average=self.average, mesh=self.mesh, diagnose=bool(self.watch),
    )  # fmt: skip
    since: dict[str, Mean] = {}
    bar = tqdm.tqdm(total=self.steps, initial=self.step, unit="step", disable=None)
    for step in range(self.step + 1, self.steps + 1):
      state, metrics = next(loop)
      seconds = before + time.perf_counter() - begun
      self.progress = self.progress._replace(state=state, seconds=seconds)
      yield state, metrics
      since = {name: metrics[name] + since.get(name, Mean(0.0, 0.0)) for name in metrics}
      bar.update()
      end = step % self.every == 0 or step == self.steps
      if end or self.signal or step % 50 == 0:
        loss = since["loss"].value
        bar.set_postfix(loss=f"{loss:.3f}")
        if not math.isfinite(loss):
          raise Diverged(
            f"the loss is {loss} at step {step}; the last good state is that of the last "
            "checkpoint. A smaller --rate is the usual cure"
          )
      if end:
        self._look(step, since)
        since = {}
      if self.signal:
        self._stop()
    bar.close()

  def _look(self, step, since):
    """Validates, keeps the best parameters, saves."""
    scores = evaluate(self.task, self.progress.state.evaluated, self.data.valid, self.mesh)
    if not self.sign * scores[self.metric] <= self.progress.score:  # nan, of nothing, is no bar
      best = jax.tree.map(jnp.copy, self.progress.state.evaluated)
      self.progress = self.progress._replace(best=best, score=self.sign * scores[self.metric])
    values = {f"train/{name}": mean.value for name, mean in since.items()}
    values |= {f"valid/{name}": value for name, value in scores.items()}
    watched = self.watch(self.progress.state.params) if self.watch else {}
    self.records.write(step, **values, **watched)
    with tqdm.tqdm.external_write_mode(file=sys.stderr):
      brief = (item for item in values.items() if "gradient/" not in item[0])
      shown = "  ".join(f"{name} {value:.4f}" for name, value in brief)
      logging.info("step %d/%d  %s  %.0f s", step, self.steps, shown, self.progress.seconds)
    if self.checkpoints:
      self.checkpoints.save(step, self.progress)

  def _open(self):
    from rnnjax.training.checkpoints import Checkpoints  # orbax takes seconds to import

    self.checkpoints = Checkpoints(self.out / "checkpoints")

  def _stop(self):
    """Saves after a signal, in a folder of its own where none was given, and leaves."""
    if not self.checkpoints:
      self.out = pathlib.Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
      records.claim(self.out, self.config, self.beside)
      self._open()
    self.checkpoints.save(self.step, self.progress)
    logging.warning(
      "stopped after step %d of %d, which is saved. The same command with --out=%s resumes there.",
      self.step, self.steps, self.out,
    )  # fmt: skip
    raise Stopped(130 if self.signal == signal.SIGINT else 0)

  def test(self) -> dict[str, float]:
    """Reads the test part, once, with the parameters that did best in validation."""
    scores = evaluate(self.task, self.progress.best, self.data.test, self.mesh)
    return {f"test/{name}": value for name, value in scores.items()} | {
      f"valid/{self.metric}": self.sign * self.progress.score,
      "parameters": self.parameters,
      "steps": self.step,
      "seconds": round(self.progress.seconds, 1),
    }
