"""A word at a time: the Penn Treebank, or any text cut into words.

python -m experiments.word_lm                                 # the text that comes along
python -m experiments.word_lm --preset=small --data_dir=ptb --workdir=runs/ptb
    # Penn Treebank, 2 CPU cores, 36 min: perplexity 84.6, with the cache 76.1
python -m experiments.word_lm --predict=runs/ptb --prompt_file="the market"  # the likeliest next words
"""

import dataclasses
from typing import ClassVar

import optax

from experiments.common import cli
from experiments.common.train_config import CELLS, PROBABILITY, field_spec
from experiments.language_modeling import data as corpus_data
from experiments.language_modeling import lm_common
from experiments.language_modeling.neural_cache import neural_cache_task
from experiments.language_modeling.text_generator import TextGenerator
from rnnjax import backward, stack, training
from rnnjax.output_layers import adaptive_softmax, full_softmax
from rnnjax.training import averaging
from rnnjax.training.metrics import perplexity
from rnnjax.types import InvalidInputError

PRESETS = {
  "small": dict(  # as many parameters as the small model of Zaremba et al. 2014
    hidden_size=400,
    num_layers=2,
    embed_dim=200,
    tied=True,
    batch_size=40,
    epochs=14,
    learning_rate=3e-3,
    dropout=0.3,
    input_dropout=0.3,
    word_type_dropout=0.05,
    weight_drop=0.3,
    ema_decay=0.998,
    state_reset_prob=0.0,
    cache_size=500,
  ),
  "reviews": dict(  # what `imdb --preset=pretrained` starts from; 32 min
    dataset="reviews",
    cell="gru",
    hidden_size=128,
    embed_dim=64,
    bidirectional_lm=True,
    vocab_size=10_000,
    state_reset_prob=0.0,
    adaptive_cutoffs="2000",
    batch_size=64,
    bptt_length=50,
    epochs=4,
    learning_rate=3e-3,
    dropout=0.1,
    ema_decay=0.998,
  ),
  "awd": dict(  # Merity, McCann & Socher 2017, but averaging from a fixed step; untried
    hidden_size=1150,
    num_layers=3,
    embed_dim=400,
    tied=True,
    batch_size=80,
    bptt_length=70,
    epochs=500,
    learning_rate=30.0,
    dropout=0.4,
    input_dropout=0.4,
    word_type_dropout=0.1,
    weight_drop=0.5,
    activation_reg=2.0,
    temporal_reg=1.0,
    optimizer="asgd",
  ),
}


@dataclasses.dataclass(frozen=True)
class Config(lm_common.LanguageModelConfig):
  separator: ClassVar[str] = " "
  dataset: str = field_spec("auto", "which text", corpus_data.DATASETS)
  dropout: float = field_spec(
    0.4, "rate between layers and before the softmax, locked", **PROBABILITY
  )
  epochs: int = 40
  batch_size: int = field_spec(8, "columns of the text that are read side by side", min_value=1)
  bptt_length: int = field_spec(35, "steps through which the gradient goes back", min_value=1)
  learning_rate: float = 4e-3
  vocab_size: int = field_spec(10_000, "unknown, and the most frequent words", min_value=2)
  adaptive_cutoffs: str = field_spec("", "ranks at which an adaptive softmax cuts, as 2000,10000")
  bidirectional_lm: bool = field_spec(
    False, "learn to read backward, too, to start a bidirectional classifier"
  )
  optimizer: str = field_spec("adam", "asgd: plain steps, averaged late", ("adam", "asgd"))
  asgd_start: float = field_spec(
    0.5, "share of the steps after which asgd averages", min_value=0, less_than=1
  )
  weight_decay: float = field_spec(1.2e-6, "weight decay of asgd", min_value=0)
  cache_size: int = field_spec(
    0, "words that the neural cache remembers; 0 for none", min_value=0, affects_training=False
  )
  cache_theta: float = field_spec(2.0, "θ of the cache", min_value=0, affects_training=False)
  cache_lambda: float = field_spec(
    0.15, "λ of the cache", min_value=0, less_than=1, affects_training=False
  )
  sample_length: int = field_spec(
    50, "words written after training; 0 for none", min_value=0, affects_training=False
  )


def build(config: Config, vocab_size: int):
  """The model alone, of V words."""
  softmax = full_softmax(vocab_size)
  if config.adaptive_cutoffs:
    if config.tied:
      raise InvalidInputError(
        "--adaptive_cutoffs needs --tied=false: the adaptive softmax has tables of its own"
      )
    try:
      softmax = adaptive_softmax(vocab_size, tuple(map(int, config.adaptive_cutoffs.split(","))))
    except ValueError as error:
      raise InvalidInputError(f"--adaptive_cutoffs={config.adaptive_cutoffs}: {error}") from None
  if config.bidirectional_lm and config.num_layers > 1:
    raise InvalidInputError(f"--bidirectional_lm needs --num_layers=1; got {config.num_layers}")
  back = stack(backward(CELLS[config.cell](config.hidden_size), backend=config.backend))
  return lm_common.build(config, vocab_size, softmax, back if config.bidirectional_lm else None)


def make_optimizer_and_ema(config: Config, num_steps: int):
  """AdamW with a decaying rate, or SGD that is averaged from its trigger on."""
  if config.optimizer == "adam":
    return lm_common.make_optimizer_and_ema(config, num_steps)
  parts = optax.clip_by_global_norm(0.25), optax.add_decayed_weights(config.weight_decay)
  optimizer = optax.chain(*parts, optax.scale_by_learning_rate(config.learning_rate))
  return optimizer, averaging.polyak(round(config.asgd_start * num_steps))


def load(workdir: str) -> TextGenerator:
  """The writer of a run's --workdir: load("runs/ptb").likeliest("the market")."""
  return lm_common.load(workdir, Config, build)


def print_samples(config: Config, generator: TextGenerator):
  """Prints the words likeliest to follow the prompt, and a text."""
  if config.prompt:
    for word, p in generator.top_next_tokens(config.prompt):
      print(f"  {p:6.3f}  {config.prompt} {word}")
  return lm_common.print_samples(config, generator)


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once, and writes; returns the scores."""
  if config.predict:
    return print_samples(config, load(config.predict))
  text = corpus_data.load_words(
    config.dataset, config.text_file or config.data_dir, config.vocab_size
  )
  model = build(config, len(text.vocabulary))
  writer, scores = lm_common.train(config, text, model, make_optimizer_and_ema)
  if config.cache_size:
    alone, one = (
      training.devices.first(),
      corpus_data.make_batches(text, 1, config.bptt_length, config.seed),
    )
    task = neural_cache_task(model, config.cache_size, config.cache_theta, config.cache_lambda)
    for part in ("valid", "test"):
      score = training.evaluate(task, writer.params, getattr(one, part), alone)
      scores[f"{part}/cached_perplexity"] = perplexity(score["loss"])
  for part in ("valid", "test"):
    scores[f"{part}/perplexity"] = perplexity(scores[f"{part}/loss"])
  return scores | print_samples(config, writer)


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
