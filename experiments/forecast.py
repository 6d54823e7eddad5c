"""What comes next, many steps ahead, and how sure is that? Time series of one or many variables.

python -m experiments.forecast                                          # a generated series
python -m experiments.forecast --preset=etth1 --data_dir=ETTh1.csv.gz   # squared error 0.027
python -m experiments.forecast --preset=airline --data_dir=airline-passengers.csv --out=runs/air
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import numpy as np

from experiments.common import cli, runner, train_config
from experiments.common.train_config import CELLS, RATE, option
from experiments.forecasting import data as series_data
from experiments.forecasting import plots as pictures
from experiments.forecasting.quantiles import OUTPUTS, forecast, measure
from experiments.forecasting.windows import baselines, windows
from rnnjax import forward, stack
from rnnjax.data.bucketed_batches import Batches
from rnnjax.models.sequence_labeler import Frames
from rnnjax.training import tasks

BASES = ("last", "season")
SHOWN = 4  # windows of the test part in the figure
PRESETS = {
  "etth1": dict(columns="OT", split="8640,2880,2880", stride=4, rate=3e-3),
  "etth1_all": dict(split="8640,2880,2880", apart=True, batch=256, stride=4, rate=3e-3, epochs=4),
  "sp500": dict(columns="Close", log=True, season=5, horizon=5, window=60, rate=3e-3),
  "airline": dict(log=True, season=12, horizon=12, window=24, epochs=60, batch=16),
}


@dataclasses.dataclass(frozen=True)
class Config(train_config.Common):
  cell: str = "gru"
  data_dir: str = option("", "a .csv file (also .gz): a header, dates, columns of numbers")
  columns: str = option("", "columns that are read, between commas; all where it is empty")
  split: str = option("0.7,0.1,0.2", "training, validation and test part, as shares or as rows")
  log: bool = option(False, "foretell logarithms, for what grows by shares")
  horizon: int = option(24, "steps that are foretold", low=1)
  window: int = option(96, "steps that are known", low=2)
  season: int = option(24, "steps of a season", low=2)
  base: str = option("last", "what the net corrects: the last value, or the last season's", BASES)
  apart: bool = option(False, "read and foretell each variable by itself, with one net for all")
  stride: int = option(1, "steps between the beginnings of two windows in training", low=1)
  hidden: int = 64
  rate: float = 1e-2
  epochs: int = 5
  dropout: float = option(0.0, "rate between layers and before the last one", **RATE)
  average: float = 0.99


def build(config: Config, variables: int) -> Frames:
  """The model alone: at each step, for each step ahead, a mean and quantiles of each variable."""
  layer = forward(CELLS[config.cell](config.hidden), backend=config.backend)
  encoder = stack(*[layer] * config.layers, dropout=config.dropout)
  outputs = variables * config.horizon * OUTPUTS
  return Frames(encoder, outputs, output_dropout=config.dropout)


def prepare(config: Config):
  """The series, and the windows of each part, as batches, too."""
  data = series_data.load(config.data_dir, config.columns, config.split, config.log)
  ends = [data.ends(part, config.window, config.horizon) for part in range(3)]
  base = config.season if config.base == "season" else 1
  cut = functools.partial(
    windows,
    data.scaled,
    window=config.window,
    horizon=config.horizon,
    season=config.season,
    base=base,
    apart=config.apart,
  )

  def batches(ends, batch=config.batch, **how):
    made = cut(ends)
    return Batches(made.pop("tokens"), None, batch, limit=config.window, beside=made, **how)

  train = batches(ends[0][:: config.stride], seed=config.seed)
  valid, test = (batches(some, batch=4 * config.batch) for some in ends[1:])
  return SimpleNamespace(series=data, ends=ends, cut=cut, train=train, valid=valid, test=test)


def predict(config: Config, data, model: Frames, params, ends) -> np.ndarray:
  """What is foretold after some rows, in the file's own units: [ends, L, outputs, D]."""
  batch = {name: np.stack(some, 1) for name, some in data.cut(ends).items()}
  lengths = np.full(batch["tokens"].shape[1], config.window)
  made = forecast(jax.jit(model.apply)({"params": params}, batch["tokens"], lengths), batch)[-1]
  if config.apart:  # all windows of the first variable come before those of the next one
    made = made.reshape(-1, len(ends), *made.shape[2:]).swapaxes(0, 1)
  return data.series.restore(np.moveaxis(made, 1, -1))


def draw(config: Config, data, model: Frames, params):
  """Draws SHOWN windows of the test part, of the last variable, in OUT/figures/forecast.png."""
  path = runner.figure(config.out, "forecast.png")
  ends = data.ends[2][np.linspace(0, len(data.ends[2]) - 1, SHOWN).astype(int)]
  made = predict(config, data, model, params, ends)[..., 1:, -1]
  titles = [f"{data.series.columns[-1]} after {data.series.dates[t]}" for t in ends]
  pictures.forecasts(path, data.series.values[:, -1], ends, made, titles, config.window)


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores, beside baselines."""
  data = prepare(config)
  model = build(config, 1 if config.apart else len(data.series.columns))
  task = tasks.supervised(model, measure, functools.partial(measure, last=False))
  how = dict(score="loss", beside={"series": data.series.json()})
  params, scores = runner.learn(config, task, data, data.series.name, **how)
  if config.out:
    draw(config, data, model, params)
  known = dict(horizon=config.horizon, season=config.season)
  return scores | baselines(data.series.scaled, data.ends[2], **known)


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
