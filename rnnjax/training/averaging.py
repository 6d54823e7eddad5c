"""Averages of the parameters over the steps: the weight μ of the newest.

θ̄ ← (1 − μ) θ̄ + μ θ
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp

AveragingSchedule = Callable  # step -> μ


@functools.cache
def ema(decay: float) -> AveragingSchedule | None:
  """The last 1/(1 − decay) steps or so: μ = max(1 − decay, 9/(10 + t)); none at all for 0."""
  return None if decay == 0 else lambda step: 1 - jnp.minimum(decay, (1 + step) / (10 + step))


@functools.cache
def polyak(start_step: int) -> AveragingSchedule:
  """All steps from `begin` on, evenly: μ = 1/(t − begin + 1), and 1 before.

  Polyak & Juditsky 1992; with plain SGD it is the ASGD of Merity, McCann & Socher 2017, who let
  the validation part choose `begin`.
  """
  return lambda step: 1 / jnp.maximum(1, step - start_step + 1)
