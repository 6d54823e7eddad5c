"""What comes next, many steps ahead, and how sure is that? Time series of one or many variables.

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
from experiments.common.train_config import CELLS, PROBABILITY, field_spec
from experiments.forecasting import data as series_data
from experiments.forecasting import plots as pictures
from experiments.forecasting.quantiles import NUM_OUTPUTS, denormalize, forecast_metrics
from experiments.forecasting.windows import baseline_errors, make_windows
from rnnjax import forward, stack
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.models.sequence_labeler import SequenceLabeler
from rnnjax.training import tasks

BASELINES = ("last", "season")
NUM_PLOTTED_WINDOWS = 4  # windows of the test part in the figure
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
  data_dir: str = field_spec("", "a .csv file (also .gz): a header, dates, columns of numbers")
  columns: str = field_spec("", "columns that are read, between commas; all where it is empty")
  split: str = field_spec("0.7,0.1,0.2", "training, validation and test part, as shares or as rows")
  log_transform: bool = field_spec(False, "foretell logarithms, for what grows by shares")
  horizon: int = field_spec(24, "steps that are foretold", min_value=1)
  context_length: int = field_spec(96, "steps that are known", min_value=2)
  season_length: int = field_spec(24, "steps of a season", min_value=2)
  baseline: str = field_spec(
    "last", "what the net corrects: the last value, or the last season's", BASELINES
  )
  per_variable: bool = field_spec(
    False, "read and foretell each variable by itself, with one net for all"
  )
  stride: int = field_spec(
    1, "steps between the beginnings of two windows in training", min_value=1
  )
  hidden_size: int = 64
  learning_rate: float = 1e-2
  epochs: int = 5
  dropout: float = field_spec(0.0, "rate between layers and before the last one", **PROBABILITY)
  ema_decay: float = 0.99


def build(config: Config, num_variables: int) -> SequenceLabeler:
  """The model alone: at each step, for each step ahead, a mean and quantiles of each variable."""
  layer = forward(CELLS[config.cell](config.hidden_size), backend=config.backend)
  encoder = stack(*[layer] * config.num_layers, dropout=config.dropout)
  outputs = num_variables * config.horizon * NUM_OUTPUTS
  return SequenceLabeler(encoder, outputs, output_dropout=config.dropout)


def prepare(config: Config):
  """The series, and the windows of each part, as batches, too."""
  data = series_data.load(config.data_dir, config.columns, config.split, config.log_transform)
  ends = [data.window_ends(part, config.context_length, config.horizon) for part in range(3)]
  base = config.season_length if config.baseline == "season" else 1
  cut = functools.partial(
    make_windows,
    data.scaled,
    context_length=config.context_length,
    horizon=config.horizon,
    season_length=config.season_length,
    baseline_season=base,
    per_variable=config.per_variable,
  )

  def batches(ends, batch_size=config.batch_size, **batch_options):
    made = cut(ends)
    return BucketedBatches(
      made.pop("tokens"),
      None,
      batch_size,
      max_length=config.context_length,
      extras=made,
      **batch_options,
    )

  train = batches(ends[0][:: config.stride], seed=config.seed)
  valid, test = (batches(some, batch_size=4 * config.batch_size) for some in ends[1:])
  return SimpleNamespace(series=data, ends=ends, cut=cut, train=train, valid=valid, test=test)


def predict(config: Config, data, model: SequenceLabeler, params, ends) -> np.ndarray:
  """What is foretold after some rows, in the file's own units: [ends, L, outputs, D]."""
  batch = {name: np.stack(some, 1) for name, some in data.truncate(ends).items()}
  lengths = np.full(batch["tokens"].shape[1], config.context_length)
  made = denormalize(jax.jit(model.apply)({"params": params}, batch["tokens"], lengths), batch)[-1]
  if config.per_variable:  # all windows of the first variable come before those of the next one
    made = made.reshape(-1, len(ends), *made.shape[2:]).swapaxes(0, 1)
  return data.series.unscale(np.moveaxis(made, 1, -1))


def save_figures(config: Config, data, model: SequenceLabeler, params):
  """Draws SHOWN windows of the test part, of the last variable, in OUT/figures/forecast.png."""
  path = runner.figure_file(config.workdir, "forecast.png")
  ends = data.window_ends[2][
    np.linspace(0, len(data.window_ends[2]) - 1, NUM_PLOTTED_WINDOWS).astype(int)
  ]
  made = predict(config, data, model, params, ends)[..., 1:, -1]
  titles = [f"{data.series.columns[-1]} after {data.series.dates[t]}" for t in ends]
  pictures.plot_forecasts(
    path, data.series.values[:, -1], ends, made, titles, config.context_length
  )


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores, beside baselines."""
  data = prepare(config)
  model = build(config, 1 if config.per_variable else len(data.series.columns))
  task = tasks.supervised_task(
    model, forecast_metrics, functools.partial(forecast_metrics, last_step_only=False)
  )
  how = dict(score="loss", beside={"series": data.series.to_json()})
  params, scores = runner.train_and_test(config, task, data, data.series.name, **how)
  if config.workdir:
    save_figures(config, data, model, params)
  known = dict(horizon=config.horizon, season=config.season_length)
  return scores | baseline_errors(data.series.scaled, data.window_ends[2], **known)


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
