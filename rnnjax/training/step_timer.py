"""Timing of training: time spent waiting for input, compiling, and running training steps."""

import functools
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from rnnjax.training import distributed


def prefetch(batches: Iterable) -> Iterator:
  """Yield the batches; a thread reads the next batch while the current batch is used."""
  with ThreadPoolExecutor(1) as executor:
    iterator = iter(batches)
    future = executor.submit(next, iterator, None)
    while (batch := future.result()) is not None:
      future = executor.submit(next, iterator, None)
      yield batch


@functools.cache  # jax has no way to remove a listener: register one per process
def _compile_seconds() -> list[float]:
  """Return a list. The duration of every later compilation is appended to it, in seconds."""
  seconds = []

  def on_event(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
      seconds.append(duration)

  jax.monitoring.register_event_duration_secs_listener(on_event)
  return seconds


def count_tokens(batch: dict) -> int:
  """Return the number of tokens in a batch: Σ lengths, or Σ weights if there are no lengths."""
  counts = batch["lengths"] if "lengths" in batch else batch["weights"]
  return int(np.sum(counts))


class StepTimer:
  """Timer of training steps, reset at each validation."""

  def __init__(self):
    self.compile_seconds = _compile_seconds()
    self.reset()

  def reset(self):
    """Start a new lap and discard the counts of the current lap."""
    self.start_time = time.perf_counter()
    self.wait_seconds = 0.0
    self.num_steps = self.num_tokens = 0
    self.compile_seconds_before = sum(self.compile_seconds)

  def time_batches(self, batches: Iterable) -> Iterator:
    """Yield the batches with prefetching; count steps and tokens, and measure the waiting time."""
    prefetched = prefetch(batches)
    while True:
      wait_start = time.perf_counter()
      batch = next(prefetched, None)
      if batch is None:
        return
      self.wait_seconds += time.perf_counter() - wait_start
      self.num_steps += 1
      self.num_tokens += count_tokens(batch)
      yield batch

  def lap(self) -> dict[str, float]:
    """Return the timing since the previous lap, and start a new lap.

    Returns:
      A dict with these entries. The last three are omitted if the lap has no steps.
      "seconds/compile", the total time of compilation;
      "seconds/input", the time of waiting for input per step;
      "seconds/step", the time per step without compilation, including waiting for input;
      "tokens_per_second", the throughput of all hosts, without compilation time.
    """
    compile_time = sum(self.compile_seconds) - self.compile_seconds_before
    other_time = time.perf_counter() - self.start_time - compile_time
    timing = {"seconds/compile": compile_time}
    if self.num_steps:
      timing |= {
        "seconds/input": self.wait_seconds / self.num_steps,
        "seconds/step": other_time / self.num_steps,
        "tokens_per_second": distributed.sum_over_hosts(self.num_tokens) / other_time,
      }
    self.reset()
    return timing
