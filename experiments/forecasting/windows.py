"""Windows of a series: what is read at each step, what follows, and what to expect without a net.

A series seldom stays where it was, or as lively. So what is read are differences, and what is
learnt is how a naive forecast errs, both in units of the pace at which the series lately moved.
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
  """What a net reads of each window, and what it learns at each of its steps.

  Args:
    values: [N, D], standardised.
    ends: the last row of each window.
    window: T, its steps.
    horizon: L.
    season: s, in steps.
    base: the season of the naive forecast that is corrected.
    apart: each variable makes windows of its own, all of the first one's before the next one's.

  Returns:
    For each window, with one variable instead of D where they are apart,
    "tokens": [T, D · 5], of each variable (xₜ − xₜ₋₁)/pₜ, (xₜ − xₜ₋ₛ)/pₜ, (xₜ − mₜ)/pₜ with the
      mean mₜ of the last window, and sin 2πt/s, cos 2πt/s.
    "base": [T, D, L], the naive forecast.
    "pace": [T, D, 1], pₜ.
    "future": [T, D, L], what came.
  """
  N, D = values.shape
  moved, angle = local_scale(values, context_length), 2 * np.pi * np.arange(N) / season_length
  differences = (
    lag_difference(values, 1),
    lag_difference(values, season_length),
    values - moving_average(values, context_length),
  )
  clock = [np.repeat(wave(angle)[:, None], D, 1) for wave in (np.sin, np.cos)]
  tokens = np.stack([*(some / moved for some in differences), *clock], -1)
  known = {
    "tokens": tokens,
    "base": naive_forecast(values, horizon, baseline_season),
    "pace": moved[..., None],
    "future": future_values(values, horizon),
  }
  own = [slice(d, d + 1) for d in range(D)] if per_variable else [slice(D)]
  made = {}
  for name, rows in known.items():
    rows = rows.astype(np.float32)
    made[name] = [rows[t + 1 - context_length : t + 1, d] for d in own for t in ends]
  return made | {"tokens": [one.reshape(context_length, -1) for one in made["tokens"]]}


def lag_difference(values: np.ndarray, steps: int) -> np.ndarray:
  """xₜ − xₜ₋ₛ of values [N, D]; the first value stands for what precedes it."""
  return values - values[np.maximum(np.arange(len(values)) - steps, 0)]


def moving_average(values: np.ndarray, context_length: int) -> np.ndarray:
  """The mean of the last window up to each row of values [N, D]; of fewer at the beginning."""
  total = np.cumsum(np.pad(values, [(1, 0), (0, 0)]), 0)
  end = np.arange(1, len(values) + 1)
  begin = np.maximum(end - context_length, 0)
  return (total[end] - total[begin]) / (end - begin)[:, None]


def local_scale(values: np.ndarray, context_length: int) -> np.ndarray:
  """How far values [N, D] moved in a step, lately: pₜ = 0.01 + √(mean of (xₜ − xₜ₋₁)²). [N, D]."""
  return 0.01 + np.sqrt(
    np.maximum(moving_average(lag_difference(values, 1) ** 2, context_length), 0)
  )


def future_values(values: np.ndarray, horizon: int) -> np.ndarray:
  """What comes after each row of values [N, D]: xₜ₊ₖ, k = 1 ... horizon. [N, D, horizon].

  Beyond the end stands NaN.
  """
  beyond = np.full((horizon, values.shape[1]), np.nan)
  known = np.concatenate([values[1:], beyond])
  return np.lib.stride_tricks.sliding_window_view(known, horizon, 0)


def naive_forecast(values: np.ndarray, horizon: int, season_length: int = 1) -> np.ndarray:
  """The forecast that all stays as it was a season ago; with a season of 1, as it is.

      x̂ₜ,ₖ = xₜ₊ₖ₋ₘₛ,   m = ⌈k/s⌉: the fewest seasons that lead back into what is known

  Args:
    values: [N, D].
    horizon: k = 1 ... horizon.
    season: s. In the first one, the first value stands for what precedes it.

  Returns:
    [N, D, horizon].
  """
  k = np.arange(1, horizon + 1)
  rows = np.arange(len(values))[:, None] + k - season_length * -(-k // season_length)
  return values[np.maximum(rows, 0)].swapaxes(1, 2)


def baseline_errors(
  values: np.ndarray, ends: Sequence[int], *, horizon: int, season_length: int
) -> dict[str, float]:
  """Squared and absolute errors of what needs no net: nothing moves, or as it did a season ago."""
  scores, true = {}, future_values(values, horizon)[ends]
  for name, period in (("persistence", 1), ("seasonal", season_length)):
    error = naive_forecast(values, horizon, period)[ends] - true
    scores |= {f"{name}/mse": np.mean(error**2), f"{name}/mae": np.mean(abs(error))}
  return {name: float(score) for name, score in scores.items()}
