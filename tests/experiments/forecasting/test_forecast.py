"""Forecasting: quantile loss, metrics, units of the forecasts, and training runs."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import forecast
from experiments.forecast import Config
from experiments.forecasting import data as series_data
from experiments.forecasting import plots, quantiles
from experiments.forecasting.quantiles import NUM_OUTPUTS, QUANTILES
from rnnjax.types import InvalidInputError


def test_pinball_loss_is_minimal_at_quantiles():
  """For 1,001 random targets, other predictions have a higher loss than their quantiles."""
  draws = np.random.default_rng(0).gamma(2.0, size=1001)
  best = np.quantile(draws, QUANTILES)

  def loss(values):
    return float(quantiles.pinball_loss(draws, np.tile(values, (1001, 1))).sum())

  for n in range(3):
    for change in (-0.1, 0.1):
      assert loss(best + change * np.eye(3)[n]) > loss(best) + 0.1


def test_pinball_loss_on_small_example():
  """A target of 2 with predictions 1, 2, 4, and with predictions closer than κ; κ/2 = 0.005."""
  losses = quantiles.pinball_loss(
    jnp.full(2, 2.0), jnp.array([[1.0, 2.0, 4.0], [1.994, 2.0, 2.008]])
  )
  near = 0.1 * 0.006**2 / 0.02 + 0.1 * 0.008**2 / 0.02
  assert losses.tolist() == pytest.approx([0.1 * 0.995 + 0.1 * 1.995, near], rel=1e-3)


def test_pinball_gradient_is_stable_under_rounding():
  """The gradient is the same for an exact prediction and for one with a rounding error."""
  gradient = jax.grad(lambda predicted: quantiles.pinball_loss(jnp.ones(()), predicted).sum())
  exact = gradient(jnp.ones(3))
  for value in (jnp.nextafter(1.0, 0.0), jnp.nextafter(1.0, 2.0)):
    np.testing.assert_allclose(gradient(jnp.full(3, value)), exact, atol=1e-4)


def test_metrics_on_small_example():
  """Two steps of two windows, of which the second only fills the batch."""
  batch = {
    "baseline": np.full((2, 2, 1, 1), 10.0),
    "scale": np.full((2, 2, 1, 1), 2.0),
    "future": np.array([[[[9.0]], [[0.0]]], [[[13.0]], [[0.0]]]]),
    "weights": np.array([1.0, 0.0]),
  }
  ys = np.tile(np.array([1.0, 0.0, 1.0, 2.0]), (2, 2, 1))  # 12; 10, 12, 14

  def huber(e):
    return e - 0.005  # κ/2

  pinball = {
    9: 0.9 * huber(1) + 0.5 * huber(3) + 0.1 * huber(5),
    13: 0.1 * huber(3) + 0.5 * huber(1) + 0.1 * huber(1),
  }
  at_last = {"loss": 1 + pinball[13], "mse": 1.0, "mae": 1.0, "coverage": 1.0}
  at_first = {"loss": 9 + pinball[9], "mse": 9.0, "mae": 3.0, "coverage": 0.0}
  last_step, all_steps = (
    quantiles.forecast_metrics(jnp.array(ys), batch, last_step_only=last) for last in (True, False)
  )
  for name in at_last:
    assert last_step[name].value == pytest.approx(at_last[name])
    assert all_steps[name].value == pytest.approx((at_last[name] + at_first[name]) / 2)


def noise_floor(horizon: int) -> float:
  """The error of who knows all of the embedded series but the shocks to come: n's variance."""
  k = np.arange(1, horizon + 1)
  return np.mean(0.2**2 * (1 - 0.8 ** (2 * k)) / (1 - 0.8**2))


@pytest.fixture(scope="module")
def forecast_run(tmp_path_factory):
  """A run on the generated series."""
  workdir = str(tmp_path_factory.mktemp("forecast") / "run")
  config = Config(stride=2, epochs=4, workdir=workdir)
  return config, forecast.run(config)


def test_synthetic_series_is_learned(forecast_run):
  """A third better than both baselines, and not better than the noise allows."""
  _, scores = forecast_run
  data = series_data.load("")
  deviation = data.values[: data.split_sizes[0]].std()
  assert scores["test/mse"] < 0.67 * min(scores["persistence/mse"], scores["seasonal/mse"])
  assert scores["test/mse"] > 0.9 * noise_floor(24) / deviation**2
  assert 0.6 < scores["test/coverage"] < 0.95


def test_forecast_figure_is_written(forecast_run):
  config, _ = forecast_run
  path = pathlib.Path(config.workdir) / "figures" / "forecast.png"
  assert path.read_bytes().startswith(b"\x89PNG")


def write_table(folder, rows=120):
  """Write a table of two positive columns, the second ten times the first."""
  path = folder / "series.csv"
  x = np.exp(0.02 * np.arange(rows) + 0.3 * np.sin(np.arange(rows) * np.pi / 6))
  lines = [f"{t},{value},{10 * value}" for t, value in enumerate(x)]
  path.write_text("\n".join(["date,one,ten", *lines]))
  return str(path)


SMALL = dict(
  context_length=24, horizon=6, season_length=12, hidden_size=8, batch_size=16, log_transform=True
)


def random_params(model, config, D):
  tokens = jnp.zeros((config.context_length, 2, 5 * D))
  params = model.init(jax.random.key(0), tokens, jnp.full(2, config.context_length))["params"]
  return jax.tree.map(lambda p: p + 0.1, params)


@pytest.mark.parametrize("per_variable", [False, True])
def test_forecasts_are_in_original_units(tmp_path, per_variable):
  """Forecasts of logarithms are transformed back; each variable is scaled separately."""
  config = Config(**SMALL, per_variable=per_variable, data_dir=write_table(tmp_path))
  data = forecast.prepare(config)
  D = 1 if per_variable else 2
  model = forecast.build(config, D)
  params = random_params(model, config, D)
  ends = [60, 70, 80]
  forecasts = forecast.predict(config, data, model, params, ends)
  assert forecasts.shape == (3, 6, NUM_OUTPUTS, 2)
  # With zero parameters, the forecast is the baseline, the last known value.
  zero_params = jax.tree.map(jnp.zeros_like, params)
  baseline = forecast.predict(config, data, model, zero_params, ends)
  last = data.series.values[ends]
  np.testing.assert_allclose(
    baseline, np.broadcast_to(last[:, None, None], baseline.shape), rtol=1e-5
  )
  assert np.abs(forecasts / baseline - 1).min() > 1e-4
  if per_variable:
    np.testing.assert_allclose(forecasts[..., 1], 10 * forecasts[..., 0], rtol=1e-4)


def test_csv_series_is_learned(tmp_path):
  """All columns, each separately, with the seasonal baseline."""
  config = Config(
    **SMALL,
    per_variable=True,
    baseline="season",
    epochs=15,
    learning_rate=1e-2,
    data_dir=write_table(tmp_path),
  )
  scores = forecast.run(config)
  assert scores["dataset"] == "series"
  assert scores["test/mse"] < 0.5 * min(scores["persistence/mse"], scores["seasonal/mse"])


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(data_dir="/nowhere.csv"), r"--data_dir must be a \.csv file .* '/nowhere\.csv'"),
    (dict(split="a"), r"--split must be three fractions"),
    (dict(horizon=500), r"embedded has too few rows: .* 500 of --horizon"),
    (dict(baseline="mean"), r"--baseline must be one of last, season"),
    (dict(season_length=1), r"--season_length must be at least 2"),
  ],
)
def test_invalid_flags_raise(options, words):
  with pytest.raises(InvalidInputError, match=words):
    forecast.run(Config(**options))


@pytest.mark.parametrize("text", ["date,a\n1,2\n", "date,a\n"], ids=["one", "none"])
def test_single_row_raises(tmp_path, text):
  (tmp_path / "series.csv").write_text(text)
  with pytest.raises(InvalidInputError, match=r"--split .* with a sum of at most [01], the rows"):
    forecast.run(Config(data_dir=str(tmp_path / "series.csv")))


@pytest.mark.parametrize("preset", forecast.PRESETS)
def test_presets_are_valid_configs(preset):
  config = Config(**forecast.PRESETS[preset])
  assert dataclasses.asdict(config) | forecast.PRESETS[preset] == dataclasses.asdict(config)


def test_plot_of_mismatched_shapes_raises(tmp_path):
  with pytest.raises(ValueError, match=r"quantiles must be \[1, L, 3\], with one title each"):
    plots.plot_forecasts(tmp_path / "a.png", np.zeros(9), [4], np.zeros((2, 3, 3)), ["a"], 4)
