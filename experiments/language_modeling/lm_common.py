"""What the language models of characters and of words share: flags, training, writing."""

import dataclasses
import logging
import time
from typing import ClassVar

import optax

from experiments.common import runner, train_config
from experiments.common.train_config import CELLS, PROBABILITY, field_spec
from experiments.language_modeling import data as corpus_data
from experiments.language_modeling.dynamic_eval import dynamic_eval_task
from experiments.language_modeling.text_generator import TextGenerator
from rnnjax import forward, stack, training
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.decoding import make_sampler
from rnnjax.models import embedding
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full_softmax
from rnnjax.recurrent_dropout import weight_drop, zoneout
from rnnjax.training import averaging, optimizers, tasks
from rnnjax.types import InvalidInputError

DEFAULT_PROMPTS = (
  "\n",
  corpus_data.EOS_TOKEN,
)  # after one of which a text begins, where there is no prompt


@dataclasses.dataclass(frozen=True)
class LanguageModelConfig(train_config.TrainConfig):
  separator: ClassVar[str] = ""  # as for a Writer
  byte_level: ClassVar[bool] = False
  text_file: str = field_spec("", "a text file, instead of a folder of them", is_file=True)
  embed_dim: int = field_spec(64, "features of the embedding", min_value=1)
  bptt_length: int = field_spec(100, "steps through which the gradient goes back", min_value=1)
  epochs: int = 30
  dropout: float = field_spec(
    0.0, "rate between layers and before the softmax, locked", **PROBABILITY
  )
  input_dropout: float = field_spec(
    0.0, "rate at which features of the embedding vanish", **PROBABILITY
  )
  word_type_dropout: float = field_spec(
    0.0, "rate at which symbols vanish, wherever they stand", **PROBABILITY
  )
  weight_drop: float = field_spec(0.0, "rate at which recurrent weights vanish", **PROBABILITY)
  zoneout: float = field_spec(0.0, "rate at which hidden units keep their state", **PROBABILITY)
  activation_reg: float = field_spec(0.0, "α of the penalty on activations", min_value=0)
  temporal_reg: float = field_spec(0.0, "β of the penalty on their change over time", min_value=0)
  state_reset_prob: float = field_spec(
    0.02, "rate at which a column starts anew with a window", **PROBABILITY
  )
  tied: bool = field_spec(False, "the softmax shares the table of the embedding")
  ema_decay: float = 0.99
  dynamic_eval_lr: float = field_spec(
    0.0, "Adam's rate in dynamic evaluation; 0 for none", min_value=0, affects_training=False
  )
  predict: str = field_spec(
    "", "folder of a finished run: only write with its model", affects_training=False
  )
  sample_length: int = field_spec(
    500, "symbols written after training; 0 for none", min_value=0, affects_training=False
  )
  prompt: str = field_spec("", "what comes before them", affects_training=False)
  temperature: float = field_spec(
    0.8, "sharpness of what is drawn; 0 takes the likeliest", affects_training=False
  )
  num_samples: int = field_spec(
    1, "texts written at once; the first is shown", min_value=1, affects_training=False
  )
  top_k: int = field_spec(
    0, "draw among the k likeliest; 0 for all", min_value=0, affects_training=False
  )
  top_p: float = field_spec(
    1.0, "draw among the likeliest of this probability together", affects_training=False
  )

  def __post_init__(self):
    super().__post_init__()
    try:
      make_sampler(self.temperature, self.top_k or None, self.top_p)
    except ValueError as error:
      raise InvalidInputError(f"--{error}") from None


def build(
  config: LanguageModelConfig, vocab_size: int, output_layer=None, backward_encoder=None
) -> LanguageModel:
  """The model alone, of V symbols."""
  cell = CELLS[config.cell](config.hidden_size)
  if config.weight_drop and cell.coefficients:
    raise InvalidInputError(
      f"--weight_drop is of U, which {cell} has none of; --weight_drop=0 is none"
    )
  if config.zoneout and cell.coefficients:
    raise InvalidInputError(
      f"--zoneout is of h, which {cell} does not read again; --zoneout=0 is none"
    )
  layer = forward(cell, backend=config.backend)
  if config.zoneout:
    layer = zoneout(cell, config.zoneout, backend=config.backend)
  encoder = stack(*[layer] * config.num_layers, dropout=config.dropout)
  return LanguageModel(
    embedding.trainable_embedding(vocab_size, config.embed_dim),
    weight_drop(encoder, config.weight_drop) if config.weight_drop else encoder,
    output_layer or full_softmax(vocab_size),
    config.tied,
    backward_encoder,
    config.word_type_dropout,
    config.input_dropout,
    config.dropout,
  )


def make_optimizer_and_ema(config: LanguageModelConfig, num_steps: int):
  """The optimizer, and how its parameters are averaged."""
  rate = optimizers.make_schedule(config.learning_rate, num_steps, "cosine", warmup_fraction=0.02)
  return training.adam(rate), averaging.ema(config.ema_decay)


def train(
  config: LanguageModelConfig,
  text: corpus_data.Corpus,
  model: LanguageModel,
  make_optimizer_and_ema=make_optimizer_and_ema,
):
  """Trains, shows on the way what it would write; returns the best writer and the scores."""
  data = corpus_data.make_batches(text, config.batch_size, config.bptt_length, config.seed)
  steps = config.epochs * len(data.train)
  optimizer, average = make_optimizer_and_ema(config, steps)
  task = tasks.language_modeling_task(
    model, config.activation_reg, config.temporal_reg, config.state_reset_prob
  )
  how = runner.trainer_options(config) | {"beside": {"vocabulary": text.vocabulary.words}}
  writer = lambda params: TextGenerator(
    model, params, text.vocabulary, config.separator, config.byte_level
  )
  writer(None).validate_prompt(
    _prompt_or_default(config, text.vocabulary), config.top_k
  )  # before any long work
  every = -(-config.epochs // 10) * len(data.train)
  with training.Trainer(
    config, task, data, optimizer, steps, averaging=average, metric="loss", **how
  ) as run:
    for step, (state, _) in enumerate(run.train(), run.step + 1):
      if step % every == 0 and config.sample_length:
        logging.info(
          "%s", _sample_text(writer(state.eval_params), config, min(config.sample_length, 100))
        )
    scores = {"dataset": text.name, "cell": config.cell, "seed": config.seed} | run.test()
    best = run.best_params
  if config.dynamic_eval_lr:
    alone, one = (
      training.devices.first(),
      corpus_data.make_batches(text, 1, config.bptt_length, config.seed),
    )
    adapting = dynamic_eval_task(model, optax.adam(config.dynamic_eval_lr))
    for part in ("valid", "test"):
      score = training.evaluate(adapting, best, getattr(one, part), alone)
      scores[f"{part}/dynamic_loss"] = score["loss"]
  return writer(best), scores


def load(workdir: str, config_class, build, **overrides) -> TextGenerator:
  """The writer of what a run with --workdir has learnt; Config and build are its experiment's, and
  changes win."""
  saved, config = runner.load_run(config_class, workdir, "vocabulary", text="", **overrides)
  vocabulary = Vocabulary.from_json(saved.extras["vocabulary"], ())
  model = build(config, len(vocabulary))
  return TextGenerator(model, saved.params, vocabulary, config.separator, config.byte_level)


def print_samples(config: LanguageModelConfig, generator: TextGenerator) -> dict[str, float]:
  """Prints the prompt and what follows it; returns how fast it was written."""
  if not config.sample_length:
    return {}
  print(_sample_text(generator, config, config.sample_length))
  if config.num_samples == 1:
    return {}
  begun = time.perf_counter()  # a second time, for the first one compiled
  _sample_text(generator, config, config.sample_length)
  return {
    "symbols_per_second": config.num_samples * config.sample_length / (time.perf_counter() - begun)
  }


def _prompt_or_default(config, vocabulary):
  """That of the configuration, or the end of a line, or what is most frequent."""
  ends = [end for end in DEFAULT_PROMPTS if end in vocabulary.ids]
  alone = filter(str.isascii, vocabulary.words)  # no byte that is but a part of a character
  return config.prompt or [*ends, *alone, *vocabulary.words][0]


def _sample_text(generator, config, length):
  """The prompt and the first of the texts that follow it."""
  prompt = _prompt_or_default(config, generator.vocabulary)
  texts = generator.generate(
    prompt,
    length,
    num_samples=config.num_samples,
    seed=config.seed,
    temperature=config.temperature,
    top_k=config.top_k or None,
    top_p=config.top_p,
  )
  return (prompt + generator.separator + texts[0]).replace(f" {corpus_data.EOS_TOKEN} ", "\n")
