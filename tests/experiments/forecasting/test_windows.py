"""Windows of a series: small examples, the definition, and independence of the future."""

import numpy as np
import pytest

from experiments.forecasting import windows
from experiments.forecasting.windows import future_values, naive_forecast

OPTIONS = dict(context_length=8, horizon=3, season_length=4)
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


def test_moving_average_and_local_scale_on_small_example():
  """At the beginning, over the rows that exist."""
  values = np.array([[1.0], [3], [8], [4], [6]])
  assert windows.moving_average(values, 3)[:, 0] == pytest.approx([1, 2, 4, 5, 6])
  expected = np.sqrt([0, 4 / 2, (4 + 25) / 3, (4 + 25 + 16) / 3, (25 + 16 + 4) / 3])
  assert windows.local_scale(values, 3)[:, 0] == pytest.approx(0.01 + expected)


@pytest.mark.parametrize("per_variable", [False, True])
def test_window_features_equal_definition(per_variable):
  """Each feature of each window, step and variable."""
  values = np.random.default_rng(0).normal(size=(40, 2))
  ends = [15, 30]
  batch = windows.make_windows(
    values, ends, **OPTIONS, baseline_season=4, per_variable=per_variable
  )
  assert len(batch["tokens"]) == (4 if per_variable else 2)
  for i, window in enumerate(batch["tokens"]):
    end = ends[i % 2]
    variables = [i // 2] if per_variable else [0, 1]
    assert window.shape == (8, 5 * len(variables))
    for step, t in ((0, end - 7), (5, end - 2), (7, end)):
      for n, d in enumerate(variables):
        x = values[:, d]
        scale = 0.01 + np.sqrt(np.mean((x[t - 7 : t + 1] - x[t - 8 : t]) ** 2))
        differences = [x[t] - x[t - 1], x[t] - x[t - 4], x[t] - x[t - 7 : t + 1].mean()]
        clock = [np.sin(np.pi * t / 2), np.cos(np.pi * t / 2)]
        expected = [*np.divide(differences, scale), *clock]
        np.testing.assert_allclose(window[step].reshape(-1, 5)[n], expected, atol=1e-5)
        assert batch["scale"][i][step, n, 0] == pytest.approx(scale)
        np.testing.assert_allclose(batch["baseline"][i][step, n], x[t - 3 : t], rtol=1e-6)
        np.testing.assert_allclose(batch["future"][i][step, n], x[t + 1 : t + 4], rtol=1e-6)


def test_windows_do_not_read_future():
  """Values after the last row of a window change its targets only."""
  values = np.random.default_rng(0).normal(size=(40, 2))
  changed = values.copy()
  changed[21:] += 100
  batch, changed_batch = (windows.make_windows(v, [20], **OPTIONS) for v in (values, changed))
  for name in ("tokens", "baseline", "scale"):
    np.testing.assert_array_equal(batch[name], changed_batch[name])
  assert (batch["future"][0][-1] != changed_batch["future"][0][-1]).all()
