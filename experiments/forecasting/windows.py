"""Windows of a time series: model inputs, naive forecasts and targets.

The level and the volatility of a series change over time. The inputs of the model are therefore
differences of values, and its targets are the errors of a naive forecast. Inputs and targets are
divided by the recent step size (`local_scale`).
"""

from collections.abc import Sequence

import numpy as np


def make_windows(
  values: np.ndarray,
  ends: Sequence[int],
  *,
  context_length: int,
  horizon: int,
  season_length: int,
  baseline_season: int = 1,
  per_variable: bool = False,
) -> dict[str, list[np.ndarray]]:
  """Return the inputs and targets of windows of a series.

  Args:
    values: the standardized series [N, D].
    ends: the index of the last input row of each window.
    context_length: T, the number of input steps of a window.
    horizon: L, the number of forecast steps.
    season_length: s, the number of steps of a season.
    baseline_season: the season length of the naive forecast that the model corrects; 1 repeats the
      last value.
    per_variable: whether to make separate windows for each variable. If True, all windows of the
      first variable come first, and D is 1 in the shapes below.

  Returns:
    A dict of four lists, each with one array per window:
    "tokens": the model inputs [T, D · 5]. Each variable has the five inputs (xₜ − xₜ₋₁)/pₜ,
      (xₜ − xₜ₋ₛ)/pₜ, (xₜ − mₜ)/pₜ, sin 2πt/s and cos 2πt/s. mₜ is the mean of the last T values.
    "baseline": the naive forecast [T, D, L].
    "scale": the recent step size pₜ [T, D, 1], computed by `local_scale`.
    "future": the true values [T, D, L] of the L steps after each row.
  """
  N, D = values.shape
  scale = local_scale(values, context_length)
  angle = 2 * np.pi * np.arange(N) / season_length
  differences = (
    lag_difference(values, 1),
    lag_difference(values, season_length),
    values - moving_average(values, context_length),
  )
  clock = [np.repeat(wave(angle)[:, None], D, 1) for wave in (np.sin, np.cos)]
  tokens = np.stack([*(difference / scale for difference in differences), *clock], -1)
  arrays = {
    "tokens": tokens,
    "baseline": naive_forecast(values, horizon, baseline_season),
    "scale": scale[..., None],
    "future": future_values(values, horizon),
  }
  variables = [slice(d, d + 1) for d in range(D)] if per_variable else [slice(D)]
  windows = {}
  for name, rows in arrays.items():
    rows = rows.astype(np.float32)
    windows[name] = [rows[t + 1 - context_length : t + 1, d] for d in variables for t in ends]
  return windows | {"tokens": [window.reshape(context_length, -1) for window in windows["tokens"]]}


def lag_difference(values: np.ndarray, steps: int) -> np.ndarray:
  """Return the differences xₜ − xₜ₋ₛ of values x [N, D], where s is `steps`.

  Rows before t = 0 are replaced by the first row.
  """
  return values - values[np.maximum(np.arange(len(values)) - steps, 0)]


def moving_average(values: np.ndarray, context_length: int) -> np.ndarray:
  """Return the mean of the last `context_length` rows of values [N, D] at each row.

  At the first `context_length` − 1 rows, the mean is over all rows up to that row.
  """
  cumulative_sum = np.cumsum(np.pad(values, [(1, 0), (0, 0)]), 0)
  end = np.arange(1, len(values) + 1)
  begin = np.maximum(end - context_length, 0)
  return (cumulative_sum[end] - cumulative_sum[begin]) / (end - begin)[:, None]


def local_scale(values: np.ndarray, context_length: int) -> np.ndarray:
  """Return the recent step size pₜ [N, D] of values x [N, D].

  pₜ = 0.01 + √(moving average of (xₜ − xₜ₋₁)²)
  """
  # Rounding errors of the cumulative sum can make the moving average slightly negative.
  return 0.01 + np.sqrt(
    np.maximum(moving_average(lag_difference(values, 1) ** 2, context_length), 0)
  )


def future_values(values: np.ndarray, horizon: int) -> np.ndarray:
  """Return the next values xₜ₊ₖ, k = 1 ... horizon, for each row t of values x [N, D].

  Returns:
    The next values [N, D, horizon]; NaN if t + k is after the end of the series.
  """
  padding = np.full((horizon, values.shape[1]), np.nan)
  padded = np.concatenate([values[1:], padding])
  return np.lib.stride_tricks.sliding_window_view(padded, horizon, 0)


def naive_forecast(values: np.ndarray, horizon: int, season_length: int = 1) -> np.ndarray:
  """Return the naive forecast that repeats the last season.

      x̂ₜ,ₖ = xₜ₊ₖ₋ₘₛ,   m = ⌈k/s⌉,   k = 1 ... horizon

  m is the smallest number of seasons for which row t + k − ms is known at row t.

  Args:
    values: the series x [N, D]. Rows before t = 0 are replaced by the first row.
    horizon: the number of forecast steps.
    season_length: s, the number of steps of a season; 1 repeats the last value.

  Returns:
    The forecasts [N, D, horizon].
  """
  k = np.arange(1, horizon + 1)
  rows = np.arange(len(values))[:, None] + k - season_length * -(-k // season_length)
  return values[np.maximum(rows, 0)].swapaxes(1, 2)


def baseline_errors(
  values: np.ndarray, ends: Sequence[int], *, horizon: int, season_length: int
) -> dict[str, float]:
  """Return the mean squared and mean absolute errors of two naive forecasts.

  Args:
    values: the series [N, D].
    ends: the index of the last known row of each forecast.
    horizon: the number of forecast steps.
    season_length: the number of steps of a season.

  Returns:
    A dict with the keys "persistence/mse", "persistence/mae", "seasonal/mse" and "seasonal/mae".
    "persistence" repeats the last value, and "seasonal" repeats the last season.
  """
  scores = {}
  true = future_values(values, horizon)[ends]
  for name, period in (("persistence", 1), ("seasonal", season_length)):
    error = naive_forecast(values, horizon, period)[ends] - true
    scores |= {f"{name}/mse": np.mean(error**2), f"{name}/mae": np.mean(abs(error))}
  return {name: float(score) for name, score in scores.items()}
