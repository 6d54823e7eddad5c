"""Classify digits from a sequence of rows, pixels or permuted pixels, or from the whole image.

  python -m experiments.digits                                     # 8 x 8 digits, row by row
  python -m experiments.digits --preset=rows --data_dir=mnist      # 0.990 in 4 minutes
  python -m experiments.digits --preset=permuted --data_dir=mnist  # 784 steps of one pixel
  python -m experiments.digits --preset=whole --data_dir=mnist

The last command trains an MLP: one step of a vanilla cell from a zero carry is tanh(x W + b).
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
NUM_TIME_POINTS = 28  # maximum number of steps for which the figures show predictions
NUM_PLOTTED_DIGITS = 9  # maximum number of plotted correct predictions, and of incorrect ones
NUM_CURVE_DIGITS = 1000  # number of test digits for the accuracy curve


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  cell: str = "gru"
  dataset: str = field_spec("auto", "source of the images", DATASETS)
  view: str = field_spec(
    "rows", "part of the image in one step; permuted is one pixel", digits_data.VIEWS
  )
  learning_rate: float = 3e-3
  epochs: int = 20
  bidirectional: bool = field_spec(False, "bidirectional encoder")
  pooling: str = field_spec("last", "pooling of the outputs over time", POOLINGS)
  dropout: float = field_spec(
    0.2, "dropout rate between layers and before the output layer", **PROBABILITY
  )
  ema_decay: float = 0.99


def build(config: Config, num_classes: int = 10) -> Classifier:
  """Return the model that the configuration specifies."""
  encoder = train_config.build_encoder(config)
  return Classifier(
    jax.nn.identity, encoder, num_classes, config.pooling, output_dropout=config.dropout
  )


def prepare(config: Config):
  """Return a namespace with the images `digits` and the batches `train`, `valid` and `test`."""
  dataset = digits_data.load(config.dataset, config.data_dir)

  def make_batches(split, batch_size, seed=None):
    sequences = digits_data.to_sequences(split.images, config.view, config.seed)
    return BucketedBatches(sequences, split.labels, batch_size, sequences.shape[1], seed=seed)

  train = make_batches(dataset.train, config.batch_size, config.seed)
  valid, test = (
    make_batches(split, 4 * config.batch_size) for split in (dataset.valid, dataset.test)
  )
  return SimpleNamespace(digits=dataset, train=train, valid=valid, test=test)


@functools.partial(jax.jit, static_argnums=0)
def probs_after_steps(model: Classifier, params, xs, num_steps):
  """Return the class probabilities [B, K] after the first `num_steps` steps of xs [T, B, D]."""
  logits = model.apply({"params": params}, xs, jnp.full(xs.shape[1], num_steps))
  return jax.nn.softmax(logits)


def save_figures(workdir: str, model: Classifier, params, test: digits_data.LabeledImages, xs):
  """Plot the predictions for increasingly long prefixes of the sequences xs [T, B, D].

  accuracy.png shows the accuracy over all rows at each step. beliefs.png shows the class
  probabilities at each step for at most NUM_PLOTTED_DIGITS correctly classified rows and at most
  NUM_PLOTTED_DIGITS incorrectly classified rows.
  """
  T = len(xs)
  num_points = min(T, NUM_TIME_POINTS)
  steps = np.ceil(np.arange(1, num_points + 1) * T / num_points).astype(int)
  # [B, len(steps), K]
  probs = np.stack([probs_after_steps(model, params, xs, t) for t in steps], 1)
  correct = probs.argmax(-1) == test.labels[: len(probs), None]
  xlabel = "steps read" if len(steps) == T else f"1/{len(steps)} of the steps read"
  lines = {"accuracy": correct.mean(0)}
  plot_curves(runner.figure_file(workdir, "accuracy.png"), lines, {}, xlabel, "accuracy")
  correct_rows = np.flatnonzero(correct[:, -1])[:NUM_PLOTTED_DIGITS]
  wrong_rows = np.flatnonzero(~correct[:, -1])[:NUM_PLOTTED_DIGITS]
  rows = [*correct_rows, *wrong_rows]
  path = runner.figure_file(workdir, "beliefs.png")
  plot_class_probabilities(path, test.images[rows], probs[rows], test.labels[rows])


def run(config: Config = Config()):
  """Train a classifier; return the test scores of the best checkpoint by validation accuracy."""
  data = prepare(config)
  model = build(config, data.digits.num_classes)
  task = tasks.classification_task(model)
  name = f"{data.digits.name} {config.view}"
  shapes = {"features": data.test.sequences.shape[-1], "classes": data.digits.num_classes}
  params, scores = runner.train_and_test(
    config, task, data, name, "cosine", extras={"digits": shapes}
  )
  if config.workdir:
    xs = np.moveaxis(data.test.sequences[:NUM_CURVE_DIGITS], 1, 0)  # [T, B, D]
    save_figures(config.workdir, model, params, data.digits.test, xs)
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
