"""Ctrl-C and SIGTERM, heard between two steps; on many hosts all of them stop at the same."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Signals:
  """Hears what asks a run to stop, from when it is entered until it is left.

      with Signals() as signals:
        while not signals.heard():
          ...

  Asked twice, the program ends at once. On many hosts jax hears SIGTERM, and finds a call of
  `heard` at which all can stop. Where it is not entered in the main thread, nothing is heard.
  """

  calls = 0  # of `heard` in this process, of all runs: jax names one at which all stop

  def __init__(self):
    self.number, self.handlers, self.entered = None, {}, False

  def __enter__(self):
    alone = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
    for number in (signal.SIGINT, signal.SIGTERM) if alone else ():
      self.handlers[number] = signal.signal(number, self._hear)
    self.entered = True
    return self

  def __exit__(self, *_):
    for number, handler in self.handlers.items():
      signal.signal(number, handler)
    self.entered = False

  def _hear(self, number, _):
    if self.number:
      raise KeyboardInterrupt
    self.number = number

  def heard(self) -> int | None:
    """The signal that asks to stop here; None where none does."""
    if not self.entered:
      return None
    Signals.calls += 1
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(Signals.calls):
      self.number = signal.SIGTERM
    return self.number
