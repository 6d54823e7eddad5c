"""What the language models of characters and of words share: flags, training, writing."""

import dataclasses
import logging
import time
from typing import ClassVar

import optax

from experiments.common import runner, train_config
from experiments.common.train_config import CELLS, RATE, option
from experiments.language_modeling import data as corpus_data
from experiments.language_modeling.dynamic_eval import dynamic
from experiments.language_modeling.text_generator import Writer
from rnnjax import forward, stack, training
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.decoding import sample
from rnnjax.models import embedding
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full
from rnnjax.recurrent_dropout import weight_drop, zoneout
from rnnjax.training import averaging, optimizers, tasks
from rnnjax.types import BadInput

ENDS = ("\n", corpus_data.END)  # after one of which a text begins, where there is no prompt


@dataclasses.dataclass(frozen=True)
class Language(train_config.Common):
  blank: ClassVar[str] = ""  # as for a Writer
  bytes: ClassVar[bool] = False
  text: str = option("", "a text file, instead of a folder of them", file=True)
  width: int = option(64, "features of the embedding", low=1)
  window: int = option(100, "steps through which the gradient goes back", low=1)
  epochs: int = 30
  dropout: float = option(0.0, "rate between layers and before the softmax, locked", **RATE)
  input_dropout: float = option(0.0, "rate at which features of the embedding vanish", **RATE)
  type_dropout: float = option(0.0, "rate at which symbols vanish, wherever they stand", **RATE)
  weight_drop: float = option(0.0, "rate at which recurrent weights vanish", **RATE)
  zoneout: float = option(0.0, "rate at which hidden units keep their state", **RATE)
  activation: float = option(0.0, "α of the penalty on activations", low=0)
  temporal: float = option(0.0, "β of the penalty on their change over time", low=0)
  restart: float = option(0.02, "rate at which a column starts anew with a window", **RATE)
  tied: bool = option(False, "the softmax shares the table of the embedding")
  average: float = 0.99
  dynamic: float = option(0.0, "Adam's rate in dynamic evaluation; 0 for none", low=0, aside=True)
  write: str = option("", "folder of a finished run: only write with its model", aside=True)
  sample: int = option(500, "symbols written after training; 0 for none", low=0, aside=True)
  prompt: str = option("", "what comes before them", aside=True)
  temperature: float = option(0.8, "sharpness of what is drawn; 0 takes the likeliest", aside=True)
  texts: int = option(1, "texts written at once; the first is shown", low=1, aside=True)
  top_k: int = option(0, "draw among the k likeliest; 0 for all", low=0, aside=True)
  top_p: float = option(1.0, "draw among the likeliest of this probability together", aside=True)

  def __post_init__(self):
    super().__post_init__()
    try:
      sample(self.temperature, self.top_k or None, self.top_p)
    except ValueError as error:
      raise BadInput(f"--{error}") from None


def build(config: Language, V: int, softmax=None, back=None) -> LanguageModel:
  """The model alone, of V symbols."""
  cell = CELLS[config.cell](config.hidden)
  if config.weight_drop and cell.linear:
    raise BadInput(f"--weight_drop is of U, which {cell} has none of; --weight_drop=0 is none")
  if config.zoneout and cell.linear:
    raise BadInput(f"--zoneout is of h, which {cell} does not read again; --zoneout=0 is none")
  layer = forward(cell, backend=config.backend)
  if config.zoneout:
    layer = zoneout(cell, config.zoneout, backend=config.backend)
  encoder = stack(*[layer] * config.layers, dropout=config.dropout)
  return LanguageModel(
    embedding.trainable(V, config.width),
    weight_drop(encoder, config.weight_drop) if config.weight_drop else encoder,
    softmax or full(V),
    config.tied,
    back,
    config.type_dropout,
    config.input_dropout,
    config.dropout,
  )


def optimize(config: Language, steps: int):
  """The optimizer, and how its parameters are averaged."""
  rate = optimizers.schedule(config.rate, steps, "cosine", warmup=0.02)
  return training.adam(rate), averaging.moving(config.average)


def train(config: Language, text: corpus_data.Corpus, model: LanguageModel, optimize=optimize):
  """Trains, shows on the way what it would write; returns the best writer and the scores."""
  data = corpus_data.columns(text, config.batch, config.window, config.seed)
  steps = config.epochs * len(data.train)
  optimizer, average = optimize(config, steps)
  task = tasks.language(model, config.activation, config.temporal, config.restart)
  how = runner.how(config) | {"beside": {"vocabulary": text.vocabulary.words}}
  writer = lambda params: Writer(model, params, text.vocabulary, config.blank, config.bytes)
  writer(None).check(_prompt(config, text.vocabulary), config.top_k)  # before any long work
  every = -(-config.epochs // 10) * len(data.train)
  with training.Run(
    config, task, data, optimizer, steps, average=average, score="loss", **how
  ) as run:
    for step, (state, _) in enumerate(run.train(), run.step + 1):
      if step % every == 0 and config.sample:
        logging.info("%s", _written(writer(state.evaluated), config, min(config.sample, 100)))
    scores = {"dataset": text.name, "cell": config.cell, "seed": config.seed} | run.test()
    best = run.best
  if config.dynamic:
    alone, one = training.devices.first(), corpus_data.columns(text, 1, config.window, config.seed)
    adapting = dynamic(model, optax.adam(config.dynamic))
    for part in ("valid", "test"):
      score = training.evaluate(adapting, best, getattr(one, part), alone)
      scores[f"{part}/dynamic_loss"] = score["loss"]
  return writer(best), scores


def load(out: str, Config, build, **changes) -> Writer:
  """The writer of what a run with --out has learnt; Config and build are its experiment's, and
  changes win."""
  saved, config = runner.restore(Config, out, "vocabulary", text="", **changes)
  vocabulary = Vocabulary.load(saved.beside["vocabulary"], ())
  model = build(config, len(vocabulary))
  return Writer(model, saved.params, vocabulary, config.blank, config.bytes)


def write(config: Language, writer: Writer) -> dict[str, float]:
  """Prints the prompt and what follows it; returns how fast it was written."""
  if not config.sample:
    return {}
  print(_written(writer, config, config.sample))
  if config.texts == 1:
    return {}
  begun = time.perf_counter()  # a second time, for the first one compiled
  _written(writer, config, config.sample)
  return {"symbols_per_second": config.texts * config.sample / (time.perf_counter() - begun)}


def _prompt(config, vocabulary):
  """That of the configuration, or the end of a line, or what is most frequent."""
  ends = [end for end in ENDS if end in vocabulary.ids]
  alone = filter(str.isascii, vocabulary.words)  # no byte that is but a part of a character
  return config.prompt or [*ends, *alone, *vocabulary.words][0]


def _written(writer, config, length):
  """The prompt and the first of the texts that follow it."""
  prompt = _prompt(config, writer.vocabulary)
  texts = writer.write(
    prompt,
    length,
    number=config.texts,
    seed=config.seed,
    temperature=config.temperature,
    top_k=config.top_k or None,
    top_p=config.top_p,
  )
  return (prompt + writer.blank + texts[0]).replace(f" {corpus_data.END} ", "\n")
