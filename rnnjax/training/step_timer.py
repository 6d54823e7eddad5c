"""Where the seconds of a training go: reading, compiling, stepping."""

import functools
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from rnnjax.training import distributed


def ahead(batches: Iterable) -> Iterator:
  """The batches, each read while the one before is used."""
  with ThreadPoolExecutor(1) as reader:
    batches = iter(batches)
    coming = reader.submit(next, batches, None)
    while (batch := coming.result()) is not None:
      coming = reader.submit(next, batches, None)
      yield batch


@functools.cache
def _compiled() -> list[float]:
  """The seconds of each compilation of this process from the first call on."""
  seconds = []

  def heard(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
      seconds.append(duration)

  jax.monitoring.register_event_duration_secs_listener(heard)
  return seconds


def tokens(batch: dict) -> int:
  """How many tokens a batch holds: what its lengths say, or all of its weights."""
  each = batch["lengths"] if "lengths" in batch else batch["weights"]
  return int(np.sum(each))


class Clock:
  """Counts what passes between two laps."""

  def __init__(self):
    self.compiled = _compiled()
    self.start()

  def start(self):
    """Begins a lap, and forgets what was counted."""
    self.begun, self.waited, self.steps, self.tokens = time.perf_counter(), 0.0, 0, 0
    self.before = sum(self.compiled)

  def reading(self, batches: Iterable) -> Iterator:
    """The batches, read ahead; counts how long one waits for them, and what they hold."""
    batches = ahead(batches)
    while True:
      begun = time.perf_counter()
      batch = next(batches, None)
      if batch is None:
        return
      self.waited += time.perf_counter() - begun
      self.steps, self.tokens = self.steps + 1, self.tokens + tokens(batch)
      yield batch

  def lap(self) -> dict[str, float]:
    """Seconds since the last lap: in all those of compiling, for each step, where there was one,
    those of waiting for input and of all but compiling; and the tokens, of all hosts, of each
    second that was not compiling."""
    compile = sum(self.compiled) - self.before
    rest = time.perf_counter() - self.begun - compile
    found = {"seconds/compile": compile}
    if self.steps:
      found |= {
        "seconds/input": self.waited / self.steps,
        "seconds/step": rest / self.steps,
        "tokens_per_second": distributed.total(self.tokens) / rest,
      }
    self.start()
    return found
