"""Sentiment of film reviews: many words in, one label out.

  python -m experiments.imdb --cell=gru
  python -m experiments.imdb --preset=notes     # vocabulary 5,000, embedding 32, LSTM 100
"""

import dataclasses
from types import SimpleNamespace

import flax.linen as nn

from experiments import options
from experiments.options import CELLS, option
from rnnjax import bidirectional, forward, stack, tasks, training
from rnnjax.data import imdb
from rnnjax.data.batches import Batches
from rnnjax.data.vocabulary import Vocabulary, words
from rnnjax.models.classifier import Classifier
from rnnjax.pooling import POOLINGS
from rnnjax.training import optimizers

PRESETS = {
  "notes": dict(
    vocabulary=5000, width=32, cell="lstm", hidden=100, limit=600, keep="last", pooling="last",
    bidirectional=False,
  ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(options.Common):
  dataset: str = option("auto", "which reviews; auto looks for IMDB first", imdb.DATASETS)
  vocabulary: int = option(30_000, "padding, unknown and the most frequent words", low=3)
  limit: int = option(400, "longer reviews are cut to so many words", low=1)
  keep: str = option("last", "which end of a longer review is kept", ("first", "last"))
  padding: str = option("back", "zeros in front count as words", ("back", "front"))
  width: int = option(128, "features of the embedding", low=1)
  bidirectional: bool = option(True, "read in both directions")
  pooling: str = option("max_mean", "how outputs become one vector", POOLINGS)
  word_dropout: float = option(0.1, "rate at which words vanish", low=0)
  embedding_dropout: float = option(0.2, "rate at which features of the embedding vanish", low=0)
  dropout: float = option(0.5, "rate between layers and before the last one", low=0)
  epochs: int = option(4, "passes over the training part", low=1)
  average: float = option(0.99, "decay of the parameters' moving average; 0 for none", low=0)
  decay: float = option(0.0, "weight decay", low=0)


def build(config: Config, vocabulary: int, classes: int) -> Classifier:
  """The model alone."""
  make = lambda: CELLS[config.cell](config.hidden)
  layer = bidirectional(make(), make()) if config.bidirectional else forward(make())
  encoder = stack(*[layer] * config.layers, dropout=config.dropout)
  embed = nn.Embed(vocabulary, config.width)
  return Classifier(
    embed, encoder, classes, config.pooling,
    config.word_dropout, config.embedding_dropout, config.dropout,
  )  # fmt: skip


def prepare(config: Config):
  """The reviews as batches of ids."""
  reviews = imdb.load(config.dataset, config.data_dir)
  parts = {p: [words(text) for text, _ in getattr(reviews, p)] for p in ("train", "valid", "test")}
  vocabulary = Vocabulary.of(parts["train"], config.vocabulary)
  data = SimpleNamespace(name=reviews.name, classes=reviews.classes, vocabulary=vocabulary)
  for part, texts in parts.items():
    labels = [label for _, label in getattr(reviews, part)]
    seed = config.seed if part == "train" else None
    ids = [vocabulary.encode(text) for text in texts]
    batches = Batches(
      ids, labels, config.batch, config.limit, config.keep, config.padding, seed=seed
    )
    setattr(data, part, batches)
  return data


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  data = prepare(config)
  task = tasks.classification(build(config, len(data.vocabulary), len(data.classes)))
  steps = config.epochs * len(data.train)
  optimizer = training.adam(optimizers.schedule(config.rate, steps), decay=config.decay)
  with training.Run(config, task, data, optimizer, steps, average=config.average) as run:
    for _ in run.train():
      pass
    return {"dataset": data.name, "cell": config.cell, "seed": config.seed} | run.test()


if __name__ == "__main__":
  options.main(Config, run, PRESETS)
