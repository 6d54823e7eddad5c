"""A profiler trace of a few training steps, for TensorBoard or Perfetto."""

import logging
import pathlib

import jax

PROFILED_STEPS = range(10, 15)  # counted from the start of a run; earlier steps compile


class Profiler:
  """Profiler that traces the training steps in PROFILED_STEPS.

  Args:
    folder: the folder to which the trace is written; None disables the profiler.
  """

  def __init__(self, folder: pathlib.Path | None):
    self.folder, self.is_tracing = folder, False

  def step(self, step: int):
    """Start or stop the trace. Call before each step, with the number of steps taken so far."""
    if self.folder and step == PROFILED_STEPS.start:
      jax.profiler.start_trace(self.folder)
      self.is_tracing = True
    elif step == PROFILED_STEPS.stop:
      self.close()

  def close(self):
    """Stop the trace if it is running."""
    if self.is_tracing:
      jax.profiler.stop_trace()
      logging.info("the profiler trace is in %s", self.folder)
    self.is_tracing = False
