"""A word at a time: the Penn Treebank, or any text cut into words.

python -m experiments.word_lm                                 # the text that comes along
python -m experiments.word_lm --preset=small --data_dir=ptb --out=runs/ptb
    # Penn Treebank, 2 CPU cores, 36 min: perplexity 84.6, with the cache 76.1
python -m experiments.word_lm --write=runs/ptb --prompt="the market"  # the likeliest next words
"""

import dataclasses
from typing import ClassVar

import optax

from experiments.common import cli
from experiments.common.train_config import CELLS, RATE, option
from experiments.language_modeling import data as corpus_data
from experiments.language_modeling import lm_common
from experiments.language_modeling.neural_cache import cached
from experiments.language_modeling.text_generator import Writer
from rnnjax import backward, stack, training
from rnnjax.output_layers import adaptive, full
from rnnjax.training import averaging
from rnnjax.training.metrics import perplexity
from rnnjax.types import BadInput

PRESETS = {
  "small": dict(  # as many parameters as the small model of Zaremba et al. 2014
    hidden=400,
    layers=2,
    width=200,
    tied=True,
    batch=40,
    epochs=14,
    rate=3e-3,
    dropout=0.3,
    input_dropout=0.3,
    type_dropout=0.05,
    weight_drop=0.3,
    average=0.998,
    restart=0.0,
    cache=500,
  ),
  "reviews": dict(  # what `imdb --preset=pretrained` starts from; 32 min
    dataset="reviews",
    cell="gru",
    hidden=128,
    width=64,
    both=True,
    vocabulary=10_000,
    restart=0.0,
    cutoffs="2000",
    batch=64,
    window=50,
    epochs=4,
    rate=3e-3,
    dropout=0.1,
    average=0.998,
  ),
  "awd": dict(  # Merity, McCann & Socher 2017, but averaging from a fixed step; untried
    hidden=1150,
    layers=3,
    width=400,
    tied=True,
    batch=80,
    window=70,
    epochs=500,
    rate=30.0,
    dropout=0.4,
    input_dropout=0.4,
    type_dropout=0.1,
    weight_drop=0.5,
    activation=2.0,
    temporal=1.0,
    optimizer="asgd",
  ),
}


@dataclasses.dataclass(frozen=True)
class Config(lm_common.Language):
  blank: ClassVar[str] = " "
  dataset: str = option("auto", "which text", corpus_data.DATASETS)
  dropout: float = option(0.4, "rate between layers and before the softmax, locked", **RATE)
  epochs: int = 40
  batch: int = option(8, "columns of the text that are read side by side", low=1)
  window: int = option(35, "steps through which the gradient goes back", low=1)
  rate: float = 4e-3
  vocabulary: int = option(10_000, "unknown, and the most frequent words", low=2)
  cutoffs: str = option("", "ranks at which an adaptive softmax cuts, as 2000,10000")
  both: bool = option(False, "learn to read backward, too, to start a bidirectional classifier")
  optimizer: str = option("adam", "asgd: plain steps, averaged late", ("adam", "asgd"))
  trigger: float = option(0.5, "share of the steps after which asgd averages", low=0, below=1)
  decay: float = option(1.2e-6, "weight decay of asgd", low=0)
  cache: int = option(0, "words that the neural cache remembers; 0 for none", low=0, aside=True)
  flatness: float = option(2.0, "θ of the cache", low=0, aside=True)
  share: float = option(0.15, "λ of the cache", low=0, below=1, aside=True)
  sample: int = option(50, "words written after training; 0 for none", low=0, aside=True)


def build(config: Config, V: int):
  """The model alone, of V words."""
  softmax = full(V)
  if config.cutoffs:
    if config.tied:
      raise BadInput("--cutoffs needs --tied=false: the adaptive softmax has tables of its own")
    try:
      softmax = adaptive(V, tuple(map(int, config.cutoffs.split(","))))
    except ValueError as error:
      raise BadInput(f"--cutoffs={config.cutoffs}: {error}") from None
  if config.both and config.layers > 1:
    raise BadInput(f"--both needs --layers=1; got {config.layers}")
  back = stack(backward(CELLS[config.cell](config.hidden), backend=config.backend))
  return lm_common.build(config, V, softmax, back if config.both else None)


def optimize(config: Config, steps: int):
  """AdamW with a decaying rate, or SGD that is averaged from its trigger on."""
  if config.optimizer == "adam":
    return lm_common.optimize(config, steps)
  parts = optax.clip_by_global_norm(0.25), optax.add_decayed_weights(config.decay)
  optimizer = optax.chain(*parts, optax.scale_by_learning_rate(config.rate))
  return optimizer, averaging.polyak(round(config.trigger * steps))


def load(out: str) -> Writer:
  """The writer of a run's --out: load("runs/ptb").likeliest("the market")."""
  return lm_common.load(out, Config, build)


def write(config: Config, writer: Writer):
  """Prints the words likeliest to follow the prompt, and a text."""
  if config.prompt:
    for word, p in writer.likeliest(config.prompt):
      print(f"  {p:6.3f}  {config.prompt} {word}")
  return lm_common.write(config, writer)


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once, and writes; returns the scores."""
  if config.write:
    return write(config, load(config.write))
  text = corpus_data.tokens(config.dataset, config.text or config.data_dir, config.vocabulary)
  model = build(config, len(text.vocabulary))
  writer, scores = lm_common.train(config, text, model, optimize)
  if config.cache:
    alone, one = training.devices.first(), corpus_data.columns(text, 1, config.window, config.seed)
    task = cached(model, config.cache, config.flatness, config.share)
    for part in ("valid", "test"):
      score = training.evaluate(task, writer.params, getattr(one, part), alone)
      scores[f"{part}/cached_perplexity"] = perplexity(score["loss"])
  for part in ("valid", "test"):
    scores[f"{part}/perplexity"] = perplexity(scores[f"{part}/loss"])
  return scores | write(config, writer)


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
