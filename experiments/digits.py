"""Digits read as a sequence: row by row, pixel by pixel, in a scrambled order, or at one glance.

  python -m experiments.digits                                     # 8 x 8 digits, row by row
  python -m experiments.digits --preset=rows --data_dir=mnist      # 0.990 in 3 minutes
  python -m experiments.digits --preset=permuted --data_dir=mnist  # 784 steps of one pixel
  python -m experiments.digits --preset=whole --data_dir=mnist

From nothing, one step of a vanilla cell is tanh(x W + b), so the last of these is an MLP.
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import cli, runner, train_config
from experiments.common.train_config import RATE, option
from experiments.pixel_sequences import data as digits_data
from experiments.pixel_sequences.plots import beliefs
from rnnjax.analysis.figures import curves
from rnnjax.data.bucketed_batches import Batches
from rnnjax.data.files import DATASETS
from rnnjax.models.classifier import Classifier
from rnnjax.pooling import POOLINGS
from rnnjax.training import tasks

PRESETS = {
  "rows": dict(epochs=8, rate=2e-3, dropout=0.3, average=0.998),
  "permuted": dict(
    view="permuted", batch=128, rate=5e-3, epochs=12, pooling="max_mean", dropout=0.0, average=0.998
  ),
  "whole": dict(view="whole", cell="vanilla", layers=2, hidden=256, epochs=8, rate=1e-3),
}
MOMENTS, SHOWN, ASKED = 28, 9, 1000  # of reading; digits right and wrong in a figure, in a curve


@dataclasses.dataclass(frozen=True)
class Config(train_config.Common):
  cell: str = "gru"
  dataset: str = option("auto", "which digits", DATASETS)
  view: str = option("rows", "what is read at a time; permuted: pixels", digits_data.VIEWS)
  rate: float = 3e-3
  epochs: int = 20
  bidirectional: bool = option(False, "read in both directions")
  pooling: str = option("last", "how outputs become one vector", POOLINGS)
  dropout: float = option(0.2, "rate between layers and before the last one", **RATE)
  average: float = 0.99


def build(config: Config, classes: int = 10) -> Classifier:
  """The model alone."""
  read = train_config.encoder(config)
  return Classifier(jax.nn.identity, read, classes, config.pooling, output_dropout=config.dropout)


def prepare(config: Config):
  """The images as batches of sequences."""
  data = digits_data.load(config.dataset, config.data_dir)

  def batches(part, batch, seed=None):
    seen = digits_data.view(part.images, config.view, config.seed)
    return Batches(seen, part.labels, batch, seen.shape[1], seed=seed)

  train = batches(data.train, config.batch, config.seed)
  valid, test = (batches(part, 4 * config.batch) for part in (data.valid, data.test))
  return SimpleNamespace(digits=data, train=train, valid=valid, test=test)


@functools.partial(jax.jit, static_argnums=0)
def believe(model: Classifier, params, xs, t):
  """The probabilities [B, K] of the classes once the first t of the steps xs [T, B, D] are read."""
  logits = model.apply({"params": params}, xs, jnp.full(xs.shape[1], t))
  return jax.nn.softmax(logits)


def draw(out: str, model: Classifier, params, test: digits_data.Part, xs):
  """Two figures: how much is known when, over all and of single digits, half of them mistaken."""
  T = len(xs)
  moments = np.ceil(np.arange(1, min(T, MOMENTS) + 1) * T / min(T, MOMENTS)).astype(int)
  believed = np.stack([believe(model, params, xs, t) for t in moments], 1)  # [B, moments, K]
  right = believed.argmax(-1) == test.labels[: len(believed), None]
  read = "steps read" if len(moments) == T else f"1/{len(moments)} of the steps read"
  lines = {"accuracy": right.mean(0)}
  curves(runner.figure(out, "accuracy.png"), lines, {}, read, "share of digits")
  shown = [*np.flatnonzero(right[:, -1])[:SHOWN], *np.flatnonzero(~right[:, -1])[:SHOWN]]
  path = runner.figure(out, "beliefs.png")
  beliefs(path, test.images[shown], believed[shown], test.labels[shown])


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  data = prepare(config)
  model = build(config, data.digits.classes)
  task, name = tasks.classification(model), f"{data.digits.name} {config.view}"
  seen = {"features": data.test.sequences.shape[-1], "classes": data.digits.classes}
  params, scores = runner.learn(config, task, data, name, "cosine", beside={"digits": seen})
  if config.out:
    xs = np.moveaxis(data.test.sequences[:ASKED], 1, 0)  # [T, B, D]
    draw(config.out, model, params, data.digits.test, xs)
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
