"""Where the seconds of a training go: reading, compiling, stepping."""

import functools
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from rnnjax.training import distributed


def prefetch(batches: Iterable) -> Iterator:
  """The batches, each read while the one before is used."""
  with ThreadPoolExecutor(1) as reader:
    batches = iter(batches)
    coming = reader.submit(next, batches, None)
    while (batch := coming.result()) is not None:
      coming = reader.submit(next, batches, None)
      yield batch


@functools.cache
def _compile_seconds() -> list[float]:
  """The seconds of each compilation of this process from the first call on."""
  seconds = []

  def heard(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
      seconds.append(duration)

  jax.monitoring.register_event_duration_secs_listener(heard)
  return seconds


def count_tokens(batch: dict) -> int:
  """How many tokens a batch holds: what its lengths say, or all of its weights."""
  each = batch["lengths"] if "lengths" in batch else batch["weights"]
  return int(np.sum(each))


class StepTimer:
  """Counts what passes between two laps."""

  def __init__(self):
    self.compile_seconds = _compile_seconds()
    self.reset()

  def reset(self):
    """Begins a lap, and forgets what was counted."""
    self.start_time, self.wait_seconds, self.num_steps, self.num_tokens = (
      time.perf_counter(),
      0.0,
      0,
      0,
    )
    self.compile_seconds_before = sum(self.compile_seconds)

  def time_batches(self, batches: Iterable) -> Iterator:
    """The batches, read ahead; counts how long one waits for them, and what they hold."""
    batches = prefetch(batches)
    while True:
      begun = time.perf_counter()
      batch = next(batches, None)
      if batch is None:
        return
      self.wait_seconds += time.perf_counter() - begun
      self.num_steps, self.num_tokens = self.num_steps + 1, self.num_tokens + count_tokens(batch)
      yield batch

  def lap(self) -> dict[str, float]:
    """Seconds since the last lap: in all those of compiling, for each step, where there was one,
    those of waiting for input and of all but compiling; and the tokens, of all hosts, of each
    second that was not compiling."""
    compile = sum(self.compile_seconds) - self.compile_seconds_before
    rest = time.perf_counter() - self.start_time - compile
    found = {"seconds/compile": compile}
    if self.num_steps:
      found |= {
        "seconds/input": self.wait_seconds / self.num_steps,
        "seconds/step": rest / self.num_steps,
        "tokens_per_second": distributed.sum_over_hosts(self.num_tokens) / rest,
      }
    self.reset()
    return found
