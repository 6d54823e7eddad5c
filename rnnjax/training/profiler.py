"""A trace of a few steps, for TensorBoard or Perfetto."""

import logging
import pathlib

import jax

PROFILED_STEPS = range(10, 15)  # which are traced, counted from a run's start: those before compile


class Profiler:
  """Writes into a folder what the devices do in some steps; nothing where it is None."""

  def __init__(self, folder: pathlib.Path | None):
    self.folder, self.is_tracing = folder, False

  def step(self, step: int):
    """A step of this number, from 0 on, is about to begin."""
    if self.folder and step == PROFILED_STEPS.start:
      jax.profiler.start_trace(self.folder)
      self.is_tracing = True
    elif step == PROFILED_STEPS.stop:
      self.close()

  def close(self):
    """Ends the trace, where one is being written."""
    if self.is_tracing:
      jax.profiler.stop_trace()
      logging.info("a trace of some steps lies in %s", self.folder)
    self.is_tracing = False
