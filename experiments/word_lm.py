"""Word-level language model of the Penn Treebank or any other tokenized text.

python -m experiments.word_lm                                 # trains on the embedded text
python -m experiments.word_lm --preset=small --data_dir=ptb --workdir=runs/ptb
    # Penn Treebank: test perplexity 84.6, 76.1 with the neural cache; 36 min on 2 CPU cores
python -m experiments.word_lm --predict="the market" --workdir=runs/ptb
    # prints the most probable next words and a continuation
"""

import dataclasses
from typing import ClassVar

import optax

from experiments.common import cli
from experiments.common.cells import make_cell
from experiments.common.train_config import field_spec
from experiments.language_modeling import data as corpus_data
from experiments.language_modeling import lm_common
from experiments.language_modeling.neural_cache import neural_cache_task
from experiments.language_modeling.text_generator import TextGenerator
from rnnjax import backward, stack
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import adaptive_softmax, full_softmax
from rnnjax.training import averaging
from rnnjax.training.metrics import perplexity
from rnnjax.types import InvalidInputError

PRESETS = {
  "small": dict(  # as many parameters as the small model of Zaremba et al. (2014)
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
  "reviews": dict(  # the language model of `imdb --preset=pretrained`; trains in 32 min
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
  "awd": dict(  # Merity, Keskar & Socher (2017), with averaging from a fixed step on; untested
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

  # Data
  dataset: str = field_spec("auto", "text to train on", corpus_data.DATASETS)
  vocab_size: int = field_spec(
    10_000, "vocabulary size: <unk> and the most frequent words", min_value=2
  )
  batch_size: int = 8
  bptt_length: int = 35

  # Model
  adaptive_cutoffs: str = field_spec(
    "", "frequency ranks that separate the clusters of an adaptive softmax, e.g. 2000,10000"
  )
  bidirectional_lm: bool = field_spec(
    False, "also train a backward model, to initialize a bidirectional classifier"
  )

  # Optimization
  dropout: float = 0.4
  epochs: int = 40
  learning_rate: float = 4e-3
  optimizer: str = field_spec("adam", "optimizer; asgd is averaged SGD", ("adam", "asgd"))
  asgd_start: float = field_spec(
    0.5, "fraction of the steps after which asgd starts to average", min_value=0, less_than=1
  )
  weight_decay: float = field_spec(1.2e-6, "weight decay of asgd", min_value=0)

  # Evaluation
  cache_size: int = field_spec(
    0, "steps in the neural cache; 0 disables the cache", min_value=0, affects_training=False
  )
  cache_theta: float = field_spec(
    2.0, "θ, the inverse temperature of the neural cache", min_value=0, affects_training=False
  )
  cache_lambda: float = field_spec(
    0.15, "λ, the weight of the neural cache", min_value=0, less_than=1, affects_training=False
  )

  # Generation
  sample_length: int = field_spec(
    50, "words to generate after training; 0 generates none", min_value=0, affects_training=False
  )


def build(config: Config, vocab_size: int) -> LanguageModel:
  """Build the language model that a configuration specifies.

  Args:
    config: the configuration.
    vocab_size: the number of words in the vocabulary.

  Raises:
    InvalidInputError: --adaptive_cutoffs is malformed or not increasing, or flags exclude each
      other (--adaptive_cutoffs with --tied, --bidirectional_lm with more than one layer).
  """
  softmax = full_softmax(vocab_size)
  if config.adaptive_cutoffs:
    if config.tied:
      raise InvalidInputError(
        "--adaptive_cutoffs needs --tied=false: the adaptive softmax has weights of its own"
      )
    try:
      softmax = adaptive_softmax(vocab_size, tuple(map(int, config.adaptive_cutoffs.split(","))))
    except ValueError as error:
      raise InvalidInputError(f"--adaptive_cutoffs={config.adaptive_cutoffs}: {error}") from None
  backward_encoder = None
  if config.bidirectional_lm:
    if config.num_layers > 1:
      raise InvalidInputError(f"--bidirectional_lm needs --num_layers=1; got {config.num_layers}")
    cell = make_cell(config.cell, config.hidden_size)
    backward_encoder = stack(backward(cell, backend=config.backend))
  return lm_common.build(config, vocab_size, softmax, backward_encoder)


def make_optimizer_and_ema(config: Config, num_steps: int):
  """Return the optimizer that --optimizer names, and its parameter averaging.

  "adam" is Adam with a decaying learning rate and an EMA of the parameters. "asgd" is SGD with
  Polyak averaging, which begins after the fraction --asgd_start of the training steps.
  """
  if config.optimizer == "adam":
    return lm_common.make_optimizer_and_ema(config, num_steps)
  optimizer = optax.chain(
    optax.clip_by_global_norm(0.25),
    optax.add_decayed_weights(config.weight_decay),
    optax.scale_by_learning_rate(config.learning_rate),
  )
  return optimizer, averaging.polyak(round(config.asgd_start * num_steps))


def load(workdir: str) -> TextGenerator:
  """Load the text generator of a finished run.

  Example: load("runs/ptb").top_next_tokens("the market")
  """
  return lm_common.load(workdir, Config, build)


def print_samples(config: Config, generator: TextGenerator, prompt: str) -> dict[str, float]:
  """Print the most probable next words after a prompt, and a sampled continuation."""
  if prompt:
    for word, probability in generator.top_next_tokens(prompt):
      print(f"  {probability:6.3f}  {prompt} {word}")
  return lm_common.print_samples(config, generator, prompt)


def run(config: Config = Config()) -> dict:
  """Train a language model, test it, print a sample, and return the scores.

  The parameters with the best validation loss are evaluated on the test set. If --predict is
  set, no model is trained, and the saved model continues the prompt.
  """
  if config.predict:
    return print_samples(config, load(config.workdir), config.predict)
  corpus = corpus_data.load_words(
    config.dataset, config.text_file or config.data_dir, config.vocab_size
  )
  model = build(config, len(corpus.vocabulary))
  generator, scores = lm_common.train(config, corpus, model, make_optimizer_and_ema)
  if config.cache_size:
    task = neural_cache_task(model, config.cache_size, config.cache_theta, config.cache_lambda)
    losses = lm_common.evaluate_single_column(config, corpus, task, generator.params)
    scores |= {f"{split}/cached_perplexity": perplexity(loss) for split, loss in losses.items()}
  for split in ("valid", "test"):
    scores[f"{split}/perplexity"] = perplexity(scores[f"{split}/loss"])
  return scores | print_samples(config, generator, config.prompt)


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
