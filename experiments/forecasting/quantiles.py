"""Probabilistic forecasts: a mean and quantiles, with their loss and metrics."""

from collections.abc import Mapping

import jax.numpy as jnp
import optax

from rnnjax.training import metrics
from rnnjax.types import Array

QUANTILES = (0.1, 0.5, 0.9)  # 0.1 and 0.9 are the ends of an 80 % interval
NUM_OUTPUTS = 1 + len(QUANTILES)  # a mean and the quantiles, per variable and forecast step
HUBER_DELTA = 0.01  # κ, in standard deviations of the series


def pinball_loss(target: Array, predicted: Array) -> Array:
  """Return the smooth pinball loss (Dabney et al. 2018), summed over QUANTILES.

      loss = Σ |q − [e < 0]| h(e) over q in QUANTILES,   e = target − predicted
      h(e) = e²/2κ if |e| < κ, else |e| − κ/2

  κ is HUBER_DELTA. The original pinball loss (Koenker & Bassett 1978) has a kink at e = 0, where a
  rounding error changes the sign of the gradient. Training would therefore differ between devices.
  The smooth loss has no kink. Its expectation is minimal at the true quantiles, up to the effect of
  κ.

  Args:
    target: the true values [...].
    predicted: the predicted quantiles [..., Q], with one value for each of the Q QUANTILES.

  Returns:
    The losses [...].
  """
  q, e = jnp.array(QUANTILES), target[..., None] - predicted
  return (jnp.where(e < 0, 1 - q, q) * optax.huber_loss(e, delta=HUBER_DELTA) / HUBER_DELTA).sum(-1)


def denormalize(ys: Array, batch: Mapping[str, Array]) -> Array:
  """Convert model outputs y to forecasts x̂ = baseline + scale · y.

  Args:
    ys: the outputs of the model [T, B, D · L · NUM_OUTPUTS].
    batch: {"baseline": [T, B, D, L], "scale": [T, B, D, 1]}.

  Returns:
    The forecasts [T, B, D, L, NUM_OUTPUTS]. The last axis contains the mean and the QUANTILES.
  """
  baseline = batch["baseline"][..., None]
  return baseline + batch["scale"][..., None] * ys.reshape(*baseline.shape[:-1], NUM_OUTPUTS)


def forecast_metrics(
  ys: Array, batch: Mapping[str, Array], last_step_only: bool = True
) -> dict[str, metrics.Mean]:
  """Return the loss, errors and interval coverage of forecasts, as weighted means.

  Args:
    ys: the outputs of the model [T, B, D · L · NUM_OUTPUTS].
    batch: {"baseline": [T, B, D, L], "scale": [T, B, D, 1], "future": true values [T, B, D, L],
      "weights": [B]}.
    last_step_only: whether to evaluate only the forecasts at the last step of each window; if
      False, the forecasts at all steps are evaluated.

  Returns:
    {"loss": squared error plus pinball loss, "mse": squared error of the predicted mean,
    "mae": absolute error of the predicted mean, "coverage": fraction of true values in the 80 %
    interval}.
  """
  if last_step_only:
    ys = ys[-1:]
    batch = batch | {name: batch[name][-1:] for name in ("baseline", "scale", "future")}
  forecasts, true = denormalize(ys, batch), batch["future"]
  error, low, high = true - forecasts[..., 0], forecasts[..., 1], forecasts[..., -1]
  measures = {
    "loss": error**2 + pinball_loss(true, forecasts[..., 1:]),
    "mse": error**2,
    "mae": abs(error),
    "coverage": (low <= true) & (true <= high),
  }
  weights = jnp.broadcast_to(batch["weights"][:, None, None], true.shape)
  return {name: metrics.weighted_mean(values, weights) for name, values in measures.items()}
