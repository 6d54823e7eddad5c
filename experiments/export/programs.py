"""Functions that build the `Program` of a run's model for `python -m experiments.export`."""

import functools

import jax
import jax.numpy as jnp

from experiments.common import commands, runner
from experiments.forecasting.quantiles import denormalize, forecast_metrics
from experiments.language_modeling import lm_common
from experiments.polyphonic_music import piano_roll
from experiments.seq2seq import seq2seq_common
from experiments.sequence_tagging import lexicon
from rnnjax.data.vocabulary import UNKNOWN
from rnnjax.export import Program
from rnnjax.models.seq2seq_predictor import beam_search_batch
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError

LENGTHS_SPEC = "int32[B] <= T"
# Axis sizes in an exported program are symbolic. For symbolic sizes, the backend "auto" selects the
# reference implementation.
AUTO_BACKEND = {"backend": "auto"}


def build_program(experiment_name: str, workdir: str) -> Program:
  """Return the program that computes the predictions of a run's model.

  Args:
    experiment_name: the name of the run's experiment, a key of EXPORTERS.
    workdir: the run directory.

  Raises:
    InvalidInputError: the experiment has no export, or the run does not exist.
  """
  if experiment_name not in EXPORTERS:
    raise InvalidInputError(
      f"{workdir!r} is a run of {experiment_name!r}, which has no export; these have one: "
      f"{', '.join(sorted(EXPORTERS))}"
    )
  return EXPORTERS[experiment_name](commands.load_command(experiment_name), workdir)


def export_classifier(experiment, workdir: str) -> Program:
  """Return the program that computes class probabilities, from n-gram features if used."""
  predictor = experiment.load(workdir, **AUTO_BACKEND)
  words, params = predictor.vocabulary.words, predictor.params
  predict = tasks.classification_task(predictor.model).predict
  if predictor.ngrams is not None:
    params = {"model": params, "ngrams": predictor.ngrams}
    predict = functools.partial(predict_with_ngrams, predict, predictor.vocab_size)
  inputs = {"tokens": f"int32[T, B] < {len(words)}", "lengths": LENGTHS_SPEC}
  return Program(predict, params, inputs, {"words": words, "classes": list(predictor.classes)})


def predict_with_ngrams(predict, vocab_size: int, params, inputs):
  """Add n-gram features of the tokens to the inputs, and return the predictions of the model.

  The n-gram features use all token ids. For the model, ids ≥ `vocab_size` are replaced by UNKNOWN.
  """
  tokens = inputs["tokens"]
  features = params["ngrams"](tokens, inputs["lengths"])
  model_tokens = jnp.where(tokens < vocab_size, tokens, UNKNOWN)
  return predict(params["model"], inputs | {"tokens": model_tokens, "features": features})


def export_tagger(experiment, workdir: str) -> Program:
  """Return the program that computes the best tags and the probabilities of all tags."""
  predictor = experiment.load(workdir, **AUTO_BACKEND)
  words, characters, columns, _ = predictor.lexicon
  inputs = {
    "tokens": f"int32[T, B] < {len(words)}",
    "lengths": LENGTHS_SPEC,
    "characters": f"int32[T, B, {lexicon.MAX_WORD_LENGTH}] < {len(characters)}",
    "columns": f"int32[T, B, {len(columns)}] < {min(map(len, columns))}",
  }
  predict = tasks.tagging_task(predictor.model).predict
  extras = {"lexicon": predictor.lexicon.to_json()}
  return Program(predict, predictor.params, inputs, extras)


def export_language_model(experiment, workdir: str) -> Program:
  """Return the program that computes the log-probabilities of the next token, and the new carry."""
  generator = lm_common.load(workdir, experiment.Config, experiment.build, **AUTO_BACKEND)
  words = generator.vocabulary.words
  inputs = {"tokens": f"int32[T, B] < {len(words)}"}
  predict = tasks.language_modeling_task(generator.model).predict
  return Program(predict, generator.params, inputs, {"vocabulary": words})


def export_seq2seq(experiment, workdir: str) -> Program:
  """Return the program that runs beam search with the experiment's default search options."""
  predictor = seq2seq_common.load(workdir, experiment.Config, **AUTO_BACKEND)
  source, target = predictor.source_tokenizer, predictor.target_tokenizer
  extras = {"subwords": {"source": source.to_json(), "target": target.to_json()}}
  inputs = {"tokens": f"int32[S, B] < {len(source)}", "lengths": "int32[B] <= S"}
  predict = functools.partial(
    beam_search_batch, predictor.model, **experiment.Config().search_options
  )
  return Program(predict, predictor.params, inputs, extras)


def export_forecaster(experiment, workdir: str) -> Program:
  """Return the program that forecasts each variable at each future step of the horizon.

  The outputs are the mean and quantiles after the last input step, in normalized units.
  """
  saved, config = runner.load_run(experiment.Config, workdir, "series", **AUTO_BACKEND)
  D = 1 if config.per_variable else len(saved.extras["series"]["columns"])

  def predict(ys, batch):
    return {"forecast": denormalize(ys, batch)[-1]}

  model = experiment.build(config, D)
  task = tasks.supervised_task(model, forecast_metrics, predict_fn=predict)
  inputs = {
    "tokens": f"float32[T, B, {5 * D}]",
    "lengths": LENGTHS_SPEC,
    "baseline": f"float32[T, B, {D}, {config.horizon}]",
    "scale": f"float32[T, B, {D}, 1]",
  }
  return Program(task.predict, saved.params, inputs, saved.extras)


def export_digits(experiment, workdir: str) -> Program:
  """Return the program that computes the class probabilities of each image."""
  saved, config = runner.load_run(experiment.Config, workdir, "digits", **AUTO_BACKEND)
  features, num_classes = (saved.extras["digits"][name] for name in ("features", "classes"))
  task = tasks.classification_task(experiment.build(config, num_classes))
  inputs = {"tokens": f"float32[T, B, {features}]", "lengths": LENGTHS_SPEC}
  return Program(task.predict, saved.params, inputs, saved.extras)


def export_speech(experiment, workdir: str) -> Program:
  """Return the program that computes the CTC log-probabilities of the blank and of each word.

  The inputs are standardized features.
  """
  saved, config = runner.load_run(experiment.Config, workdir, "sounds", **AUTO_BACKEND)
  words, F = saved.extras["sounds"]["words"], len(saved.extras["sounds"]["mean"])

  def predict(ys, batch):
    return {"log_p": jax.nn.log_softmax(ys)}

  model = experiment.build(config, len(words))
  task = tasks.supervised_task(model, experiment.compute_metrics, predict_fn=predict)
  inputs = {"tokens": f"float32[T, B, {F}]", "lengths": LENGTHS_SPEC}
  return Program(task.predict, saved.params, inputs, saved.extras)


def export_music(experiment, workdir: str) -> Program:
  """Return the program that computes the probability of each piano key at each step.

  The probabilities are conditional on the earlier steps and on the lower keys of the same step.
  """
  saved, config = runner.load_run(experiment.Config, workdir, "pieces", **AUTO_BACKEND)

  def predict(logits, batch):
    return {"probabilities": jax.nn.sigmoid(logits)}

  model = experiment.build(config)
  task = tasks.supervised_task(model, experiment.compute_metrics, predict_fn=predict)
  inputs = {"tokens": f"float32[T, B, {piano_roll.NUM_KEYS}]", "lengths": LENGTHS_SPEC}
  return Program(task.predict, saved.params, inputs, saved.extras)


# To make an experiment exportable, add one line here.
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
