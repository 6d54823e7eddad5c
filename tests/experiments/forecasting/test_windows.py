"""Windows of a series: by hand, and nothing in them of what comes later."""

import numpy as np
import pytest

from experiments.forecasting import windows
from experiments.forecasting.windows import future_values, naive_forecast

HOW = dict(window=8, horizon=3, season=4)
SQUARES = np.arange(10.0)[:, None] ** 2


def test_future_and_naive_on_small_example():
  assert future_values(SQUARES, 3)[4, 0].tolist() == [25, 36, 49]
  assert np.isnan(future_values(SQUARES, 3)[8, 0]).tolist() == [False, True, True]
  assert naive_forecast(SQUARES, 3)[4, 0].tolist() == [16, 16, 16]
  assert naive_forecast(SQUARES, 5, 2)[4, 0].tolist() == [9, 16, 9, 16, 9]
  assert naive_forecast(SQUARES, 2, 4)[4, 0].tolist() == [1, 4]


def test_seasonal_naive_is_exact_on_periodic_series():
  values = np.tile(np.random.default_rng(0).normal(size=(12, 2)), (5, 1))
  rows = np.arange(12, 40)
  np.testing.assert_array_equal(
    naive_forecast(values, 20, 12)[rows], future_values(values, 20)[rows]
  )
  scores = windows.baseline_errors(values, rows, horizon=20, season_length=12)
  assert scores["seasonal/mse"] == scores["seasonal/mae"] == 0
  errors = [values[t + k] - values[t] for t in rows for k in range(1, 21)]
  assert scores["persistence/mse"] == pytest.approx(np.mean(np.square(errors)))
  assert scores["persistence/mae"] == pytest.approx(np.mean(np.abs(errors)))


def test_mean_and_pace_on_small_example():
  """Of as many rows as there are, at the beginning."""
  values = np.array([[1.0], [3], [8], [4], [6]])
  assert windows.moving_average(values, 3)[:, 0] == pytest.approx([1, 2, 4, 5, 6])
  moved = np.sqrt([0, 4 / 2, (4 + 25) / 3, (4 + 25 + 16) / 3, (25 + 16 + 4) / 3])
  assert windows.local_scale(values, 3)[:, 0] == pytest.approx(0.01 + moved)


@pytest.mark.parametrize("apart", [False, True])
def test_window_features_equal_definition(apart):
  """Each quantity of each window, step and variable."""
  values = np.random.default_rng(0).normal(size=(40, 2))
  ends = [15, 30]
  made = windows.make_windows(values, ends, **HOW, baseline_season=4, per_variable=apart)
  assert len(made["tokens"]) == (4 if apart else 2)
  for i, window in enumerate(made["tokens"]):
    end, some = ends[i % 2], [i // 2] if apart else [0, 1]
    assert window.shape == (8, 5 * len(some))
    for step, t in ((0, end - 7), (5, end - 2), (7, end)):
      for n, d in enumerate(some):
        x = values[:, d]
        pace = 0.01 + np.sqrt(np.mean((x[t - 7 : t + 1] - x[t - 8 : t]) ** 2))
        moved = [x[t] - x[t - 1], x[t] - x[t - 4], x[t] - x[t - 7 : t + 1].mean()]
        clock = [np.sin(np.pi * t / 2), np.cos(np.pi * t / 2)]
        expected = [*np.divide(moved, pace), *clock]
        np.testing.assert_allclose(window[step].reshape(-1, 5)[n], expected, atol=1e-5)
        assert made["pace"][i][step, n, 0] == pytest.approx(pace)
        np.testing.assert_allclose(made["base"][i][step, n], x[t - 3 : t], rtol=1e-6)
        np.testing.assert_allclose(made["future"][i][step, n], x[t + 1 : t + 4], rtol=1e-6)


def test_windows_do_not_read_future():
  """Whatever comes after a window's last row changes what it foretells alone."""
  values = np.random.default_rng(0).normal(size=(40, 2))
  later = values.copy()
  later[21:] += 100
  one, other = (windows.make_windows(some, [20], **HOW) for some in (values, later))
  for name in ("tokens", "base", "pace"):
    np.testing.assert_array_equal(one[name], other[name])
  assert (one["future"][0][-1] != other["future"][0][-1]).all()
