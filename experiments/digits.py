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
from experiments.common.train_config import PROBABILITY, field_spec
from experiments.pixel_sequences import data as digits_data
from experiments.pixel_sequences.plots import plot_class_probabilities
from rnnjax.analysis.figures import plot_curves
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.data.files import DATASETS
from rnnjax.models.classifier import Classifier
from rnnjax.pooling import POOLINGS
from rnnjax.training import tasks

PRESETS = {
  "rows": dict(epochs=8, learning_rate=2e-3, dropout=0.3, ema_decay=0.998),
  "permuted": dict(
    view="permuted",
    batch_size=128,
    learning_rate=5e-3,
    epochs=12,
    pooling="max_mean",
    dropout=0.0,
    ema_decay=0.998,
  ),
  "whole": dict(
    view="whole", cell="vanilla", num_layers=2, hidden_size=256, epochs=8, learning_rate=1e-3
  ),
}
NUM_TIME_POINTS, NUM_PLOTTED_DIGITS, NUM_CURVE_DIGITS = (
  28,
  9,
  1000,
)  # of reading; digits right and wrong in a figure, in a curve


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  cell: str = "gru"
  dataset: str = field_spec("auto", "which digits", DATASETS)
  view: str = field_spec("rows", "what is read at a time; permuted: pixels", digits_data.VIEWS)
  learning_rate: float = 3e-3
  epochs: int = 20
  bidirectional: bool = field_spec(False, "read in both directions")
  pooling: str = field_spec("last", "how outputs become one vector", POOLINGS)
  dropout: float = field_spec(0.2, "rate between layers and before the last one", **PROBABILITY)
  ema_decay: float = 0.99


def build(config: Config, num_classes: int = 10) -> Classifier:
  """The model alone."""
  read = train_config.build_encoder(config)
  return Classifier(
    jax.nn.identity, read, num_classes, config.pooling, output_dropout=config.dropout
  )


def prepare(config: Config):
  """The images as batches of sequences."""
  data = digits_data.load(config.dataset, config.data_dir)

  def batches(part, batch_size, seed=None):
    seen = digits_data.to_sequences(part.images, config.view, config.seed)
    return BucketedBatches(seen, part.labels, batch_size, seen.shape[1], seed=seed)

  train = batches(data.train, config.batch_size, config.seed)
  valid, test = (batches(part, 4 * config.batch_size) for part in (data.valid, data.test))
  return SimpleNamespace(digits=data, train=train, valid=valid, test=test)


@functools.partial(jax.jit, static_argnums=0)
def probs_after_steps(model: Classifier, params, xs, num_steps):
  """The probabilities [B, K] of the classes once the first t of the steps xs [T, B, D] are read."""
  logits = model.apply({"params": params}, xs, jnp.full(xs.shape[1], num_steps))
  return jax.nn.softmax(logits)


def save_figures(workdir: str, model: Classifier, params, test: digits_data.LabeledImages, xs):
  """Two figures: how much is known when, over all and of single digits, half of them mistaken."""
  T = len(xs)
  moments = np.ceil(np.arange(1, min(T, NUM_TIME_POINTS) + 1) * T / min(T, NUM_TIME_POINTS)).astype(
    int
  )
  believed = np.stack(
    [probs_after_steps(model, params, xs, t) for t in moments], 1
  )  # [B, moments, K]
  right = believed.argmax(-1) == test.labels[: len(believed), None]
  read = "steps read" if len(moments) == T else f"1/{len(moments)} of the steps read"
  lines = {"accuracy": right.mean(0)}
  plot_curves(runner.figure_file(workdir, "accuracy.png"), lines, {}, read, "share of digits")
  shown = [
    *np.flatnonzero(right[:, -1])[:NUM_PLOTTED_DIGITS],
    *np.flatnonzero(~right[:, -1])[:NUM_PLOTTED_DIGITS],
  ]
  path = runner.figure_file(workdir, "beliefs.png")
  plot_class_probabilities(path, test.images[shown], believed[shown], test.labels[shown])


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  data = prepare(config)
  model = build(config, data.digits.num_classes)
  task, name = tasks.classification_task(model), f"{data.digits.name} {config.view}"
  seen = {"features": data.test.sequences.shape[-1], "classes": data.digits.num_classes}
  params, scores = runner.train_and_test(
    config, task, data, name, "cosine", beside={"digits": seen}
  )
  if config.workdir:
    xs = np.moveaxis(data.test.sequences[:NUM_CURVE_DIGITS], 1, 0)  # [T, B, D]
    save_figures(config.workdir, model, params, data.digits.test, xs)
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
