"""A character at a time: hello, Shakespeare, the source of Linux.

  python -m experiments.char_lm                                     # the text that comes along
"""

import dataclasses
import logging
import math

from experiments import options
from experiments.options import CELLS, option
from rnnjax import forward, stack, tasks, training
from rnnjax.data import corpus
from rnnjax.data.columns import Columns
from rnnjax.models import embedding
from rnnjax.models.language_model import LanguageModel
from rnnjax.softmax import full
from rnnjax.training import averages, optimizers
from rnnjax.types import BadInput

RATE = dict(low=0, below=1)


@dataclasses.dataclass(frozen=True)
class Config(options.Common):
  dataset: str = option("auto", "which text", corpus.DATASETS[:3])
  text: str = option("", "a text file of one's own, instead of --data_dir", file=True)
  bytes: bool = option(False, "each byte of the text is a character, whatever its encoding")
  strip: bool = option(False, "drop blanks at both ends of each line")
  width: int = option(64, "features of the embedding", low=1)
  window: int = option(100, "steps through which the gradient goes back", low=1)
  epochs: int = option(30, "passes over the training part", low=1)
  dropout: float = option(0.0, "rate between layers and before the last one", **RATE)
  average: float = option(0.99, "decay of the parameters' moving average; 0 for none", **RATE)


def build(config: Config, vocabulary) -> LanguageModel:
  """The model alone."""
  layer = forward(CELLS[config.cell](config.hidden), backend=config.backend)
  return LanguageModel(
    embedding.trainable(len(vocabulary), config.width),
    stack(*[layer] * config.layers, dropout=config.dropout),
    full(len(vocabulary)),
    output_dropout=config.dropout,
  )


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  training.mesh(config.batch)
  text = corpus.characters(
    config.dataset, config.text or config.data_dir, config.strip, config.bytes
  )
  parts = {part: getattr(text, part) for part in corpus.PARTS}
  data = text
  try:
    data = text._replace(
      train=Columns(text.train, config.batch, config.window, config.seed),
      valid=Columns(text.valid, config.batch, config.window, warm=config.window),
      test=Columns(text.test, config.batch, config.window, warm=config.window),
    )
  except ValueError as error:
    raise BadInput(str(error)) from None
  task = tasks.language(build(config, text.vocabulary))
  steps = config.epochs * len(data.train)
  optimizer = training.adam(optimizers.schedule(config.rate, steps, "cosine", warmup=0.02))
  average = averages.moving(config.average) if config.average else None
  beside = {"vocabulary": text.vocabulary.words}
  with training.Run(
    config, task, data, optimizer, steps, average=average, score="loss", beside=beside
  ) as run:
    for _ in run.train():
      pass
    scores = run.test()
  bits = scores["test/loss"] / math.log(2)
  return {"dataset": data.name, "cell": config.cell, "seed": config.seed} | scores | {"test/bits": bits}


if __name__ == "__main__":
  options.main(Config, run)
