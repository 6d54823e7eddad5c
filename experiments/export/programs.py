"""What `python -m experiments.export` writes of each experiment's runs: its model as a Program."""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp

from experiments import word_lm
from experiments.common import runner
from experiments.forecasting.quantiles import denormalize
from experiments.language_modeling import lm_common
from experiments.polyphonic_music import piano_roll
from experiments.seq2seq import seq2seq_common
from experiments.sequence_tagging import lexicon
from experiments.text_classification.ngram_lookup import NgramTrie
from rnnjax.data.vocabulary import UNKNOWN, Vocabulary
from rnnjax.export import Program
from rnnjax.models import embedding
from rnnjax.models.seq2seq_predictor import beam_search_batch
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError

LENGTHS_SPEC = "int32[B] <= T"
AUTO_BACKEND = {"backend": "auto"}  # in the program, whose sizes are letters, it is the reference


def build_program(experiment_name: str, workdir: str) -> Program:
  """The model of a run's --workdir; name is that of its experiment.

  Raises:
    BadInput: it is of no experiment that exports one, or there is no such run.
  """
  if experiment_name not in EXPORTERS:
    known = ", ".join(sorted(EXPORTERS))
    raise InvalidInputError(
      f"{workdir!r} is of the experiment {experiment_name!r}; exported is what {known} have learnt"
    )
  return EXPORTERS[experiment_name](
    importlib.import_module(f"experiments.{experiment_name}"), workdir
  )


def export_classifier(experiment, workdir: str) -> Program:
  """Probabilities of classes; the n-grams' evidence is looked up on the way."""
  saved, config = runner.load_run(
    experiment.Config, workdir, "words", vectors="", init_from="", **AUTO_BACKEND
  )
  words, params = Vocabulary.from_json(saved.extras["words"], ()), saved.params
  classes, known = len(saved.extras["classes"]), None
  if config.frozen:
    known = word_lm.Config(**saved.extras["language"] | AUTO_BACKEND)
  model = experiment.build(config, words.truncate(config.vocab_size), classes, known)
  if "embedding" in params:  # as wide as the vectors of a file may have been
    model = model.clone(embedding=embedding.embedding_from_array(params["embedding"]["embedding"]))
  predict = tasks.classification_task(model).predict
  if config.evidence:
    tree = NgramTrie.load(pathlib.Path(workdir).expanduser() / experiment.EVIDENCE)
    params = {"model": params, "evidence": tree}
    predict = functools.partial(predict_with_ngrams, predict, config.vocab_size)
  inputs = {"tokens": f"int32[T, B] < {len(words)}", "lengths": LENGTHS_SPEC}
  return Program(predict, params, inputs, saved.extras)


def export_tagger(experiment, workdir: str) -> Program:
  """The likeliest tags, and the probabilities of all."""
  labeller = experiment.load(workdir, **AUTO_BACKEND)
  words, characters, columns, _ = known = labeller.lexicon
  inputs = {
    "tokens": f"int32[T, B] < {len(words)}",
    "lengths": LENGTHS_SPEC,
    "characters": f"int32[T, B, {lexicon.MAX_WORD_LENGTH}] < {len(characters)}",
    "columns": f"int32[T, B, {len(columns)}] < {min(map(len, columns))}",
  }
  predict = tasks.tagging_task(labeller.model).predict
  return Program(predict, labeller.params, inputs, {"lexicon": known.to_json()})


def export_language_model(experiment, workdir: str) -> Program:
  """What may follow each symbol, and what to go on from."""
  writer = lm_common.load(workdir, experiment.Config, experiment.build, **AUTO_BACKEND)
  words = writer.vocabulary.words
  inputs = {"tokens": f"int32[T, B] < {len(words)}"}
  return Program(
    tasks.language_modeling_task(writer.model).predict, writer.params, inputs, {"vocabulary": words}
  )


def export_seq2seq(experiment, workdir: str) -> Program:
  """The best text that beam search finds, of the width and so on that the run had by default."""
  rewriter, how = (
    seq2seq_common.load(workdir, experiment.Config, **AUTO_BACKEND),
    experiment.Config().search_options,
  )
  sides = {name: getattr(rewriter, name) for name in ("source", "target")}
  beside = {"subwords": {name: side.to_json() for name, side in sides.items()}}
  inputs = {"tokens": f"int32[S, B] < {len(rewriter.source_tokenizer)}", "lengths": "int32[B] <= S"}
  return Program(
    functools.partial(beam_search_batch, rewriter.model, **how), rewriter.params, inputs, beside
  )


def export_forecaster(experiment, workdir: str) -> Program:
  """A mean and quantiles of each variable, scaled, at each step ahead of the last one."""
  saved, config = runner.load_run(experiment.Config, workdir, "series", **AUTO_BACKEND)
  D = 1 if config.per_variable else len(saved.extras["series"]["columns"])
  answer = lambda ys, batch: {"forecast": denormalize(ys, batch)[-1]}
  task = tasks.supervised_task(experiment.build(config, D), experiment.measure, predict_fn=answer)
  known = {"base": f"float32[T, B, {D}, {config.horizon}]", "pace": f"float32[T, B, {D}, 1]"}
  inputs = {"tokens": f"float32[T, B, {5 * D}]", "lengths": LENGTHS_SPEC} | known
  return Program(task.predict, saved.params, inputs, saved.extras)


def export_digits(experiment, workdir: str) -> Program:
  """Probabilities of digits."""
  saved, config = runner.load_run(experiment.Config, workdir, "digits", **AUTO_BACKEND)
  seen, classes = saved.extras["digits"]["features"], saved.extras["digits"]["classes"]
  task = tasks.classification_task(experiment.build(config, classes))
  inputs = {"tokens": f"float32[T, B, {seen}]", "lengths": LENGTHS_SPEC}
  return Program(task.predict, saved.params, inputs, saved.extras)


def export_speech(experiment, workdir: str) -> Program:
  """log p of the blank and of each word at every step; what is heard comes scaled."""
  saved, config = runner.load_run(experiment.Config, workdir, "sounds", **AUTO_BACKEND)
  words, F = saved.extras["sounds"]["words"], len(saved.extras["sounds"]["mean"])
  answer = lambda ys, batch: {"log_p": jax.nn.log_softmax(ys)}
  task = tasks.supervised_task(
    experiment.build(config, len(words)), experiment.measure, predict_fn=answer
  )
  inputs = {"tokens": f"float32[T, B, {F}]", "lengths": LENGTHS_SPEC}
  return Program(task.predict, saved.params, inputs, saved.extras)


def export_music(experiment, workdir: str) -> Program:
  """The probability of each key, given the chords before it and the keys below."""
  saved, config = runner.load_run(experiment.Config, workdir, "pieces", **AUTO_BACKEND)
  answer = lambda logits, batch: {"probabilities": jax.nn.sigmoid(logits)}
  task = tasks.supervised_task(experiment.build(config), experiment.measure, predict_fn=answer)
  inputs = {"tokens": f"float32[T, B, {piano_roll.NUM_KEYS}]", "lengths": LENGTHS_SPEC}
  return Program(task.predict, saved.params, inputs, saved.extras)


def predict_with_ngrams(predict, vocab_size: int, params, inputs):
  """`predict` of tokens of which the first so many are known, and of the evidence of all."""
  tokens = inputs["tokens"]
  features = params["evidence"](tokens, inputs["lengths"])
  known = jnp.where(tokens < vocab_size, tokens, UNKNOWN)
  return predict(params["model"], inputs | {"tokens": known, "features": features})


EXPORTERS = {
  "imdb": export_classifier,
  "tagging": export_tagger,
  "char_lm": export_language_model,
  "word_lm": export_language_model,
  "translate": export_seq2seq,
  "summarize": export_seq2seq,
  "pronounce": export_seq2seq,
  "forecast": export_forecaster,
  "digits": export_digits,
  "speech": export_speech,
  "music": export_music,
}
