"""Forecasts as a mean and quantiles of what may come, and how good they are."""

from collections.abc import Mapping

import jax.numpy as jnp
import optax

from rnnjax.training import metrics
from rnnjax.types import Array

QUANTILES = (0.1, 0.5, 0.9)  # of which the outer ones are an interval
NUM_OUTPUTS = 1 + len(QUANTILES)
HUBER_DELTA = 0.01  # how far from the truth the pinball loss is a square, in the series' deviations


def pinball_loss(target: Array, predicted: Array) -> Array:
  """Pinball loss (Koenker & Bassett 1978), round where it had a kink (Dabney et al. 2018).

      Σ |q − [e < 0]| h(e) over q in QUANTILES,   e = true − made
      h(e) = e²/2κ where |e| < κ, else |e| − κ/2

  At a kink the last bit of an error turns the gradient round: no two devices would learn the same.

  Args:
    true: [...].
    made: [..., Q]; the loss is least where they are the quantiles, but for κ.

  Returns:
    [...].
  """
  q, e = jnp.array(QUANTILES), target[..., None] - predicted
  return (jnp.where(e < 0, 1 - q, q) * optax.huber_loss(e, delta=HUBER_DELTA) / HUBER_DELTA).sum(-1)


def denormalize(ys: Array, batch: Mapping[str, Array]) -> Array:
  """x̂ = base + pace · y: a mean and QUANTILES.

  Args:
    ys: [T, B, D · L · OUTPUTS].
    batch: {"base": [T, B, D, L], "pace": [T, B, D, 1]}.

  Returns:
    [T, B, D, L, OUTPUTS].
  """
  base = batch["base"][..., None]
  return base + batch["pace"][..., None] * ys.reshape(*base.shape[:-1], NUM_OUTPUTS)


def forecast_metrics(
  ys: Array, batch: Mapping[str, Array], last_step_only: bool = True
) -> dict[str, metrics.Mean]:
  """Squared and absolute error of the mean; how often truth lies in the interval; and the loss, the
  squared error and the pinball loss together.

  Args:
    ys: as for `forecast`.
    batch: as for `forecast`, and {"future": [T, B, D, L], "weights": [B]}.
    last: what is foretold at the last step alone counts, else that at all of them.
  """
  if last_step_only:
    ys, batch = ys[-1:], batch | {name: batch[name][-1:] for name in ("base", "pace", "future")}
  made, true = denormalize(ys, batch), batch["future"]
  error, low, high = true - made[..., 0], made[..., 1], made[..., -1]
  measures = {
    "loss": error**2 + pinball_loss(true, made[..., 1:]),
    "mse": error**2,
    "mae": abs(error),
    "coverage": (low <= true) & (true <= high),
  }
  weights = jnp.broadcast_to(batch["weights"][:, None, None], true.shape)
  return {name: metrics.weighted_mean(values, weights) for name, values in measures.items()}
