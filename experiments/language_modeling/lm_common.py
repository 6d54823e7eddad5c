"""Flags, model, training and generation shared by `char_lm` and `word_lm`."""

import dataclasses
import logging
import time
from typing import ClassVar

import optax

from experiments.common import runner, train_config
from experiments.common.cells import make_cell
from experiments.common.train_config import PROBABILITY, field_spec
from experiments.language_modeling import data as corpus_data
from experiments.language_modeling.dynamic_eval import dynamic_eval_task
from experiments.language_modeling.text_generator import TextGenerator
from rnnjax import forward, make_sampler, stack, training
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.models import embedding
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full_softmax
from rnnjax.recurrent_dropout import weight_drop, zoneout
from rnnjax.training import averaging, device_mesh, optimizers, tasks
from rnnjax.types import InvalidInputError

LINE_ENDS = ("\n", corpus_data.EOS_TOKEN)  # default prompts; a new text or line begins after them


@dataclasses.dataclass(frozen=True)
class LanguageModelConfig(train_config.TrainConfig):
  separator: ClassVar[str] = ""  # see `TextGenerator`
  byte_level: ClassVar[bool] = False

  # Data
  text_file: str = field_spec(
    "", "text file that is used instead of the folder --data_dir", is_file=True
  )
  batch_size: int = field_spec(
    64, "columns of a batch; each column is a separate stream of text", min_value=1
  )
  bptt_length: int = field_spec(100, "steps of truncated backpropagation", min_value=1)
  state_reset_prob: float = field_spec(
    0.02, "probability that a column starts a window with a zero state", **PROBABILITY
  )

  # Model
  embed_dim: int = field_spec(64, "embedding size", min_value=1)
  tied: bool = field_spec(False, "share the weights of the embedding and the softmax")

  # Optimization
  epochs: int = 30
  ema_decay: float = 0.99
  dropout: float = field_spec(
    0.0, "variational dropout rate between layers and before the softmax", **PROBABILITY
  )
  input_dropout: float = field_spec(
    0.0, "variational dropout rate of the embedding's features", **PROBABILITY
  )
  word_type_dropout: float = field_spec(
    0.0, "dropout rate of symbols; all occurrences in a batch are dropped together", **PROBABILITY
  )
  weight_drop: float = field_spec(0.0, "dropout rate of the recurrent weights", **PROBABILITY)
  zoneout: float = field_spec(
    0.0, "probability that a hidden unit keeps its previous state", **PROBABILITY
  )
  activation_reg: float = field_spec(0.0, "α of the activation penalty", min_value=0)
  temporal_reg: float = field_spec(0.0, "β of the temporal activation penalty", min_value=0)

  # Evaluation
  dynamic_eval_lr: float = field_spec(
    0.0,
    "learning rate of Adam in dynamic evaluation; 0 disables dynamic evaluation",
    min_value=0,
    affects_training=False,
  )

  # Generation
  predict: str = field_spec(
    "", "prompt to continue with the model of --workdir; empty trains", affects_training=False
  )
  sample_length: int = field_spec(
    500, "symbols to generate after training; 0 generates none", min_value=0, affects_training=False
  )
  prompt: str = field_spec(
    "", "prompt of the text generated after training; empty uses a line end", affects_training=False
  )
  temperature: float = field_spec(
    0.8, "sampling temperature; 0 takes the most probable symbol", affects_training=False
  )
  num_samples: int = field_spec(
    1,
    "number of texts to generate at once; only the first is printed",
    min_value=1,
    affects_training=False,
  )
  top_k: int = field_spec(
    0,
    "sample among the k most probable symbols; 0 disables top-k",
    min_value=0,
    affects_training=False,
  )
  top_p: float = field_spec(
    1.0,
    "sample among the most probable symbols with this total probability; 1 disables top-p",
    affects_training=False,
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
  """Build the language model that a configuration specifies.

  Args:
    config: the configuration.
    vocab_size: the number of symbols in the vocabulary.
    output_layer: the softmax; None uses a full softmax.
    backward_encoder: the encoder of an additional backward language model; None adds no backward
      model.

  Raises:
    InvalidInputError: --weight_drop or --zoneout is set for a cell without recurrent weights.
  """
  cell = make_cell(config.cell, config.hidden_size)
  if config.weight_drop and cell.coefficients:
    raise InvalidInputError(
      f"--weight_drop needs a cell with recurrent weights U; {cell} has none. Use --weight_drop=0"
    )
  if config.zoneout and cell.coefficients:
    raise InvalidInputError(
      f"--zoneout needs a cell that reads its hidden state; {cell} does not. Use --zoneout=0"
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
  """Return the Adam optimizer and the EMA of the parameters."""
  schedule = optimizers.make_schedule(
    config.learning_rate, num_steps, "cosine", warmup_fraction=0.02
  )
  return training.adam(schedule), averaging.ema(config.ema_decay)


def train(
  config: LanguageModelConfig,
  corpus: corpus_data.Corpus,
  model: LanguageModel,
  make_optimizer_and_ema=make_optimizer_and_ema,
) -> tuple[TextGenerator, dict]:
  """Train and test a language model, and log samples during training.

  Args:
    config: the configuration.
    corpus: the text.
    model: the language model.
    make_optimizer_and_ema: a function (config, num_steps) -> (optimizer, averaging).

  Returns:
    (text generator, scores). The generator has the parameters with the best validation loss.

  Raises:
    InvalidInputError: the vocabulary lacks a symbol of the prompt, --top_k exceeds the vocabulary
      size, or a split of the corpus is too short. The errors are raised before training.
  """
  data = corpus_data.make_batches(corpus, config.batch_size, config.bptt_length, config.seed)
  num_steps = config.epochs * len(data.train)
  optimizer, averaging_schedule = make_optimizer_and_ema(config, num_steps)
  task = tasks.language_modeling_task(
    model, config.activation_reg, config.temporal_reg, config.state_reset_prob
  )

  def make_generator(params):
    return TextGenerator(model, params, corpus.vocabulary, config.separator, config.byte_level)

  prompt = config.prompt or _default_prompt(corpus.vocabulary)
  make_generator(None).validate_prompt(prompt, config.top_k)
  sample_every = -(-config.epochs // 10) * len(data.train)  # log at most ten samples per run
  with training.Trainer(
    config,
    task,
    data,
    optimizer,
    num_steps,
    averaging=averaging_schedule,
    metric="loss",
    extras={"vocabulary": corpus.vocabulary.words},
    **runner.trainer_options(config),
  ) as trainer:
    for step, (state, _) in enumerate(trainer.train(), trainer.step + 1):
      if step % sample_every == 0 and config.sample_length:
        generator = make_generator(state.eval_params)
        logging.info(
          "%s", _sample_text(config, generator, config.prompt, min(config.sample_length, 100))
        )
    scores = {"dataset": corpus.name, "cell": config.cell, "seed": config.seed} | trainer.test()
    best_params = trainer.best_params
  if config.dynamic_eval_lr:
    task = dynamic_eval_task(model, optax.adam(config.dynamic_eval_lr))
    losses = evaluate_single_column(config, corpus, task, best_params)
    scores |= {f"{split}/dynamic_loss": loss for split, loss in losses.items()}
  return make_generator(best_params), scores


def evaluate_single_column(
  config: LanguageModelConfig, corpus: corpus_data.Corpus, task: tasks.Task, params
) -> dict[str, float]:
  """Evaluate a task with batch size 1; return {"valid": loss, "test": loss}."""
  data = corpus_data.make_batches(corpus, 1, config.bptt_length, config.seed)
  mesh = device_mesh.single_device_mesh()
  return {
    split: training.evaluate(task, params, getattr(data, split), mesh)["loss"]
    for split in ("valid", "test")
  }


def load(workdir: str, config_class, build, **overrides) -> TextGenerator:
  """Load the text generator of a finished run.

  Args:
    workdir: the --workdir of the run.
    config_class: the configuration class of the experiment.
    build: the `build` function of the experiment.
    **overrides: fields of the configuration to replace.

  Raises:
    InvalidInputError: `workdir` contains no finished run of this experiment.
  """
  saved, config = runner.load_run(config_class, workdir, "vocabulary", text_file="", **overrides)
  vocabulary = Vocabulary.from_json(saved.extras["vocabulary"], ())
  model = build(config, len(vocabulary))
  return TextGenerator(model, saved.params, vocabulary, config.separator, config.byte_level)


def print_samples(
  config: LanguageModelConfig, generator: TextGenerator, prompt: str
) -> dict[str, float]:
  """Print a prompt and its continuation; if --num_samples > 1, return the generation speed."""
  if not config.sample_length:
    return {}
  print(_sample_text(config, generator, prompt, config.sample_length))
  if config.num_samples == 1:
    return {}
  start = time.perf_counter()  # the first call compiled the program; the second call is timed
  _sample_text(config, generator, prompt, config.sample_length)
  num_symbols = config.num_samples * config.sample_length
  return {"symbols_per_second": num_symbols / (time.perf_counter() - start)}


def _default_prompt(vocabulary: Vocabulary) -> str:
  """Return a line end if the vocabulary has one, else the most frequent ASCII symbol."""
  line_ends = [symbol for symbol in LINE_ENDS if symbol in vocabulary.ids]
  # A non-ASCII symbol may be a single byte of a character, which is an invalid prompt.
  ascii_symbols = filter(str.isascii, vocabulary.words)
  return [*line_ends, *ascii_symbols, *vocabulary.words][0]


def _sample_text(config, generator, prompt, length):
  """Return the prompt followed by the first sampled continuation."""
  prompt = prompt or _default_prompt(generator.vocabulary)
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
