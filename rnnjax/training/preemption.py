"""Handling of Ctrl-C and SIGTERM: all hosts stop after the same training step."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class PreemptionHandler:
  """Context manager that records SIGINT and SIGTERM, so that training can stop after a step.

      with PreemptionHandler() as preemption:
        while not preemption.poll():
          ...

  A second signal raises KeyboardInterrupt at once. In multi-host runs jax itself handles SIGTERM
  and chooses a call of `poll` at which all hosts stop. Signals are recorded in the main thread
  only, because Python installs no handlers in other threads.
  """

  # Number of calls of `poll` in this process, over all runs. jax identifies a common step by it.
  num_polls = 0

  def __init__(self):
    self.signum, self.old_handlers, self.active = None, {}, False

  def __enter__(self):
    is_main_thread = threading.current_thread() is threading.main_thread()
    if jax.process_count() == 1 and is_main_thread:
      for signum in (signal.SIGINT, signal.SIGTERM):
        self.old_handlers[signum] = signal.signal(signum, self._on_signal)
    self.active = True
    return self

  def __exit__(self, *_):
    for signum, handler in self.old_handlers.items():
      signal.signal(signum, handler)
    self.active = False

  def _on_signal(self, signum, _):
    if self.signum:
      raise KeyboardInterrupt
    self.signum = signum

  def poll(self) -> int | None:
    """Return the signal number if training should stop at this point, else None."""
    if not self.active:
      return None
    PreemptionHandler.num_polls += 1
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(
      PreemptionHandler.num_polls
    ):
      self.signum = signal.SIGTERM
    return self.signum
