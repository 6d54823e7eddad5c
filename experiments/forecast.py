"""Time-series forecasting: predict one or more variables many steps ahead, with intervals.

python -m experiments.forecast                                          # a generated series
python -m experiments.forecast --preset=etth1 --data_dir=ETTh1.csv.gz   # squared error 0.027
python -m experiments.forecast --preset=airline --data_dir=airline-passengers.csv --workdir=runs/air
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import numpy as np

from experiments.common import cli, runner, train_config
from experiments.common.cells import make_cell
from experiments.common.train_config import PROBABILITY, field_spec
from experiments.forecasting import data as series_data
from experiments.forecasting import plots
from experiments.forecasting.quantiles import NUM_OUTPUTS, denormalize, forecast_metrics
from experiments.forecasting.windows import baseline_errors, make_windows
from rnnjax import forward, stack
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.models.sequence_labeler import SequenceLabeler
from rnnjax.training import tasks

BASELINES = ("last", "season")
NUM_PLOTTED_WINDOWS = 4  # number of test windows in the figure
PRESETS = {
  "etth1": dict(columns="OT", split="8640,2880,2880", stride=4, learning_rate=3e-3),
  "etth1_all": dict(
    split="8640,2880,2880",
    per_variable=True,
    batch_size=256,
    stride=4,
    learning_rate=3e-3,
    epochs=4,
  ),
  "sp500": dict(
    columns="Close",
    log_transform=True,
    season_length=5,
    horizon=5,
    context_length=60,
    learning_rate=3e-3,
  ),
  "airline": dict(
    log_transform=True, season_length=12, horizon=12, context_length=24, epochs=60, batch_size=16
  ),
}


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  cell: str = "gru"
  data_dir: str = field_spec("", "CSV file (also .gz): a header, then a date and numbers per row")
  columns: str = field_spec("", "comma-separated names of the columns to use; empty for all")
  split: str = field_spec(
    "0.7,0.1,0.2", "training, validation and test set, as fractions or numbers of rows"
  )
  log_transform: bool = field_spec(False, "log transform, for series with exponential growth")
  horizon: int = field_spec(24, "forecast horizon, in steps", min_value=1)
  context_length: int = field_spec(96, "input steps of a window", min_value=2)
  season_length: int = field_spec(24, "steps of a season", min_value=2)
  baseline: str = field_spec(
    "last",
    "naive forecast that the model corrects: the last value, or the value one season earlier",
    BASELINES,
  )
  per_variable: bool = field_spec(
    False, "read and forecast each variable separately, with one shared model"
  )
  stride: int = field_spec(1, "steps between the starts of training windows", min_value=1)
  hidden_size: int = 64
  learning_rate: float = 1e-2
  epochs: int = 5
  dropout: float = field_spec(
    0.0, "dropout rate between layers and before the output layer", **PROBABILITY
  )
  ema_decay: float = 0.99


def build(config: Config, num_variables: int) -> SequenceLabeler:
  """Return a model that outputs a mean and quantiles for each variable and forecast step."""
  layer = forward(make_cell(config.cell, config.hidden_size), backend=config.backend)
  encoder = stack(*[layer] * config.num_layers, dropout=config.dropout)
  num_outputs = num_variables * config.horizon * NUM_OUTPUTS
  return SequenceLabeler(encoder, num_outputs, output_dropout=config.dropout)


def prepare(config: Config):
  """Load the series and cut it into windows.

  Returns:
    A namespace with
      series: the time series.
      ends: for each split, the row at which each window ends.
      cut: a function that returns the windows with the given ends.
      train, valid, test: the batches of each split.
  """
  series = series_data.load(config.data_dir, config.columns, config.split, config.log_transform)
  ends = [series.window_ends(split, config.context_length, config.horizon) for split in range(3)]
  cut = functools.partial(
    make_windows,
    series.scaled,
    context_length=config.context_length,
    horizon=config.horizon,
    season_length=config.season_length,
    baseline_season=config.season_length if config.baseline == "season" else 1,
    per_variable=config.per_variable,
  )

  def make_batches(ends, batch_size=config.batch_size, **batch_options):
    windows = cut(ends)
    return BucketedBatches(
      windows.pop("tokens"),
      None,
      batch_size,
      max_length=config.context_length,
      extras=windows,
      **batch_options,
    )

  train = make_batches(ends[0][:: config.stride], seed=config.seed)
  valid, test = (
    make_batches(split_ends, batch_size=4 * config.batch_size) for split_ends in ends[1:]
  )
  return SimpleNamespace(series=series, ends=ends, cut=cut, train=train, valid=valid, test=test)


def predict(config: Config, data, model: SequenceLabeler, params, ends) -> np.ndarray:
  """Forecast the steps after each row in `ends`, in the units of the file.

  Args:
    config: the configuration of the model.
    data: the return value of `prepare`.
    model: the model.
    params: the parameters of the model.
    ends: for each forecast, the index of the last known row.

  Returns:
    The forecasts [len(ends), L, NUM_OUTPUTS, D], where L is the horizon.
  """
  batch = {name: np.stack(windows, 1) for name, windows in data.cut(ends).items()}
  lengths = np.full(batch["tokens"].shape[1], config.context_length)
  ys = jax.jit(model.apply)({"params": params}, batch["tokens"], lengths)
  forecasts = denormalize(ys, batch)[-1]
  if config.per_variable:
    # The windows are sorted by variable.
    forecasts = forecasts.reshape(-1, len(ends), *forecasts.shape[2:]).swapaxes(0, 1)
  return data.series.unscale(np.moveaxis(forecasts, 1, -1))


def save_figures(config: Config, data, model: SequenceLabeler, params):
  """Plot forecasts of the last variable in the test set to WORKDIR/figures/forecast.png."""
  path = runner.figure_file(config.workdir, "forecast.png")
  test_ends = data.ends[2]
  ends = test_ends[np.linspace(0, len(test_ends) - 1, NUM_PLOTTED_WINDOWS).astype(int)]
  quantiles = predict(config, data, model, params, ends)[..., 1:, -1]
  titles = [f"{data.series.columns[-1]} after {data.series.dates[t]}" for t in ends]
  values = data.series.values[:, -1]
  plots.plot_forecasts(path, values, ends, quantiles, titles, config.context_length)


def run(config: Config = Config()):
  """Train a model and evaluate the checkpoint with the best validation loss on the test set.

  Returns:
    The scores of the model and of two naive forecasts ("persistence/..." and "seasonal/...").
  """
  data = prepare(config)
  model = build(config, 1 if config.per_variable else len(data.series.columns))
  task = tasks.supervised_task(
    model, forecast_metrics, functools.partial(forecast_metrics, last_step_only=False)
  )
  extras = {"series": data.series.to_json()}
  params, scores = runner.train_and_test(
    config, task, data, data.series.name, metric="loss", extras=extras
  )
  if config.workdir:
    save_figures(config, data, model, params)
  return scores | baseline_errors(
    data.series.scaled, data.ends[2], horizon=config.horizon, season_length=config.season_length
  )


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
