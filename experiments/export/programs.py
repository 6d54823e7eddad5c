"""What `python -m experiments.export` writes of each experiment's runs: its model as a Program."""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp

from experiments import word_lm
from experiments.common import runner
from experiments.forecasting.quantiles import forecast
from experiments.language_modeling import lm_common
from experiments.polyphonic_music import piano_roll
from experiments.seq2seq import seq2seq_common
from experiments.sequence_tagging import lexicon
from experiments.text_classification.ngram_lookup import Tree
from rnnjax.data.vocabulary import UNKNOWN, Vocabulary
from rnnjax.export import Program
from rnnjax.models import embedding
from rnnjax.models.seq2seq_predictor import search
from rnnjax.training import tasks
from rnnjax.types import BadInput

LENGTHS = "int32[B] <= T"
ANY = {"backend": "auto"}  # in the program, whose sizes are letters, it is the reference


def program(name: str, out: str) -> Program:
  """The model of a run's --out; name is that of its experiment.

  Raises:
    BadInput: it is of no experiment that exports one, or there is no such run.
  """
  if name not in EXPORTS:
    known = ", ".join(sorted(EXPORTS))
    raise BadInput(f"{out!r} is of the experiment {name!r}; exported is what {known} have learnt")
  return EXPORTS[name](importlib.import_module(f"experiments.{name}"), out)


def reviews(its, out: str) -> Program:
  """Probabilities of classes; the n-grams' evidence is looked up on the way."""
  saved, config = runner.restore(its.Config, out, "words", vectors="", init_from="", **ANY)
  words, params = Vocabulary.load(saved.beside["words"], ()), saved.params
  classes, known = len(saved.beside["classes"]), None
  if config.frozen:
    known = word_lm.Config(**saved.beside["language"] | ANY)
  model = its.build(config, words.cut(config.vocabulary), classes, known)
  if "embedding" in params:  # as wide as the vectors of a file may have been
    model = model.clone(embedding=embedding.given(params["embedding"]["embedding"]))
  predict = tasks.classification(model).predict
  if config.evidence:
    tree = Tree.load(pathlib.Path(out).expanduser() / its.EVIDENCE)
    params = {"model": params, "evidence": tree}
    predict = functools.partial(counted, predict, config.vocabulary)
  inputs = {"tokens": f"int32[T, B] < {len(words)}", "lengths": LENGTHS}
  return Program(predict, params, inputs, saved.beside)


def tagged(its, out: str) -> Program:
  """The likeliest tags, and the probabilities of all."""
  labeller = its.load(out, **ANY)
  words, characters, columns, _ = known = labeller.lexicon
  inputs = {
    "tokens": f"int32[T, B] < {len(words)}",
    "lengths": LENGTHS,
    "characters": f"int32[T, B, {lexicon.LONGEST}] < {len(characters)}",
    "columns": f"int32[T, B, {len(columns)}] < {min(map(len, columns))}",
  }
  predict = tasks.tagging(labeller.model).predict
  return Program(predict, labeller.params, inputs, {"lexicon": known.json()})


def symbols(its, out: str) -> Program:
  """What may follow each symbol, and what to go on from."""
  writer = lm_common.load(out, its.Config, its.build, **ANY)
  words = writer.vocabulary.words
  inputs = {"tokens": f"int32[T, B] < {len(words)}"}
  return Program(tasks.language(writer.model).predict, writer.params, inputs, {"vocabulary": words})


def rewritten(its, out: str) -> Program:
  """The best text that beam search finds, of the width and so on that the run had by default."""
  rewriter, how = seq2seq_common.load(out, its.Config, **ANY), its.Config().search
  sides = {name: getattr(rewriter, name) for name in ("source", "target")}
  beside = {"subwords": {name: side.to_json() for name, side in sides.items()}}
  inputs = {"tokens": f"int32[S, B] < {len(rewriter.source)}", "lengths": "int32[B] <= S"}
  return Program(functools.partial(search, rewriter.model, **how), rewriter.params, inputs, beside)


def series(its, out: str) -> Program:
  """A mean and quantiles of each variable, scaled, at each step ahead of the last one."""
  saved, config = runner.restore(its.Config, out, "series", **ANY)
  D = 1 if config.apart else len(saved.beside["series"]["columns"])
  answer = lambda ys, batch: {"forecast": forecast(ys, batch)[-1]}
  task = tasks.supervised(its.build(config, D), its.measure, answer=answer)
  known = {"base": f"float32[T, B, {D}, {config.horizon}]", "pace": f"float32[T, B, {D}, 1]"}
  inputs = {"tokens": f"float32[T, B, {5 * D}]", "lengths": LENGTHS} | known
  return Program(task.predict, saved.params, inputs, saved.beside)


def images(its, out: str) -> Program:
  """Probabilities of digits."""
  saved, config = runner.restore(its.Config, out, "digits", **ANY)
  seen, classes = saved.beside["digits"]["features"], saved.beside["digits"]["classes"]
  task = tasks.classification(its.build(config, classes))
  inputs = {"tokens": f"float32[T, B, {seen}]", "lengths": LENGTHS}
  return Program(task.predict, saved.params, inputs, saved.beside)


def sounds(its, out: str) -> Program:
  """log p of the blank and of each word at every step; what is heard comes scaled."""
  saved, config = runner.restore(its.Config, out, "sounds", **ANY)
  words, F = saved.beside["sounds"]["words"], len(saved.beside["sounds"]["mean"])
  answer = lambda ys, batch: {"log_p": jax.nn.log_softmax(ys)}
  task = tasks.supervised(its.build(config, len(words)), its.measure, answer=answer)
  inputs = {"tokens": f"float32[T, B, {F}]", "lengths": LENGTHS}
  return Program(task.predict, saved.params, inputs, saved.beside)


def chords(its, out: str) -> Program:
  """The probability of each key, given the chords before it and the keys below."""
  saved, config = runner.restore(its.Config, out, "pieces", **ANY)
  answer = lambda logits, batch: {"probabilities": jax.nn.sigmoid(logits)}
  task = tasks.supervised(its.build(config), its.measure, answer=answer)
  inputs = {"tokens": f"float32[T, B, {piano_roll.KEYS}]", "lengths": LENGTHS}
  return Program(task.predict, saved.params, inputs, saved.beside)


def counted(predict, size: int, params, inputs):
  """`predict` of tokens of which the first so many are known, and of the evidence of all."""
  tokens = inputs["tokens"]
  features = params["evidence"](tokens, inputs["lengths"])
  known = jnp.where(tokens < size, tokens, UNKNOWN)
  return predict(params["model"], inputs | {"tokens": known, "features": features})


EXPORTS = {
  "imdb": reviews,
  "tagging": tagged,
  "char_lm": symbols,
  "word_lm": symbols,
  "translate": rewritten,
  "summarize": rewritten,
  "pronounce": rewritten,
  "forecast": series,
  "digits": images,
  "speech": sounds,
  "music": chords,
}
