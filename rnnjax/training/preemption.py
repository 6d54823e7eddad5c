"""Ctrl-C and SIGTERM, heard between two steps; on many hosts all of them stop at the same."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class PreemptionHandler:
  """Hears what asks a run to stop, from when it is entered until it is left.

      with Signals() as signals:
        while not signals.heard():
          ...

  Asked twice, the program ends at once. On many hosts jax hears SIGTERM, and finds a call of
  `heard` at which all can stop. Where it is not entered in the main thread, nothing is heard.
  """

  num_polls = 0  # of `heard` in this process, of all runs: jax names one at which all stop

  def __init__(self):
    self.signum, self.old_handlers, self.active = None, {}, False

  def __enter__(self):
    alone = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
    for number in (signal.SIGINT, signal.SIGTERM) if alone else ():
      self.old_handlers[number] = signal.signal(number, self._on_signal)
    self.active = True
    return self

  def __exit__(self, *_):
    for number, handler in self.old_handlers.items():
      signal.signal(number, handler)
    self.active = False

  def _on_signal(self, signum, _):
    if self.signum:
      raise KeyboardInterrupt
    self.signum = signum

  def poll(self) -> int | None:
    """The signal that asks to stop here; None where none does."""
    if not self.active:
      return None
    PreemptionHandler.num_polls += 1
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(
      PreemptionHandler.num_polls
    ):
      self.signum = signal.SIGTERM
    return self.signum
