"""Parameter averaging: schedules step -> μ, the weight of the newest parameters in the average.

θ̄ ← (1 − μ) θ̄ + μ θ        θ̄: average, θ: newest parameters
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp

AveragingSchedule = Callable  # step -> μ


@functools.cache
def ema(decay: float) -> AveragingSchedule | None:
  """Return the schedule of an exponential moving average with warm-up.

      μₜ = max(1 − decay, 9 / (10 + t))

  The average covers about the last 1 / (1 − decay) steps. The warm-up keeps the initial parameters
  from dominating the average of a short run.

  Args:
    decay: in [0, 1).

  Returns:
    step -> μ, the weight of the newest parameters; None (no average) if decay is 0.
  """
  if decay == 0:
    return None
  return lambda step: 1 - jnp.minimum(decay, (1 + step) / (10 + step))


@functools.cache
def polyak(start_step: int) -> AveragingSchedule:
  """Return the schedule of a uniform average over all steps from `start_step` on.

      μₜ = 1 / (t − start_step + 1)    for t ≥ start_step
      μₜ = 1                           for t < start_step

  Polyak & Juditsky 1992. With plain SGD, this is ASGD as in Merity, McCann & Socher 2017, who
  choose `start_step` by the validation loss.
  """
  return lambda step: 1 / jnp.maximum(1, step - start_step + 1)
