"""Ensembles: averaged probabilities, attention and coverage."""

import functools

import jax
import numpy as np
import pytest

from rnnjax.data.tokenizer import BOS
from rnnjax.models.ensemble import Ensemble
from rnnjax.models.seq2seq import EncodedSource
from rnnjax.models.seq2seq_predictor import Seq2SeqPredictor, append_end
from tests.models.test_seq2seq import (
  TEXTS,
  T,
  log_softmax,
  make_model,
  make_predictor,
  random_inputs,
  random_params,
  reference_logits,
)


def make_ensemble(*members):
  """Return the Ensemble of (model, params) pairs, and its parameters."""
  models, params = zip(*members)
  return Ensemble(models), params


@functools.cache
def random_member(seed, **options):
  """Return a model and parameters, which the seed scales."""
  params = jax.tree.map(lambda p: (1 + seed) * p, random_params(**options))
  return make_model(**options), params


def test_probabilities_are_averaged():
  """At each token, for members with different parameters and decoders."""
  members = [random_member(0), random_member(1), random_member(2, input_feeding=True)]
  tokens, lengths, targets, _ = random_inputs()
  probabilities = [
    np.exp(log_softmax(reference_logits(*member, tokens, lengths, targets[:-1])[0]))
    for member in members
  ]
  model, params = make_ensemble(*members)
  memory, carry = model.apply({"params": params}, tokens, lengths, method="encode")
  encoded, predict_next = EncodedSource(params, tokens, memory), jax.jit(model.predict_next)
  for t in range(T):
    carry, log_p = predict_next(encoded, targets[t : t + 1], None, carry)
    np.testing.assert_allclose(np.exp(log_p), np.mean(probabilities, 0)[t], atol=1e-6)


def ensemble_predictor(*predictors):
  """Return a predictor whose model is the ensemble of the predictors' models."""
  model, params = make_ensemble(*(predictor[:2] for predictor in predictors))
  return Seq2SeqPredictor(model, params, *predictors[0][2:])


@pytest.mark.parametrize("options", [{}, {"input_feeding": True}], ids=["plain", "input_feeding"])
def test_ensemble_of_identical_models_equals_one(options):
  """Outputs and attention are the same, also with a coverage penalty."""
  single = make_predictor(**options)
  ensemble = ensemble_predictor(single, single)
  assert ensemble(TEXTS) == single(TEXTS)
  penalty = {"coverage_penalty": 9.0}
  assert ensemble(TEXTS, **penalty) == single(TEXTS, **penalty)
  source, ids = (append_end(single.source_tokenizer.encode(text)) for text in TEXTS[:2])
  np.testing.assert_allclose(
    ensemble.attention_weights(source, ids), single.attention_weights(source, ids), atol=1e-6
  )


def test_attention_and_coverage_are_averaged():
  """Attention over all members, coverage over those that have it."""
  members = [
    make_predictor(seed, input_feeding=input_feeding)
    for seed, input_feeding in ((6, False), (5, True), (4, True))
  ]
  ensemble = ensemble_predictor(*members)
  source, ids = (append_end(members[0].source_tokenizer.encode(text)) for text in TEXTS[:2])
  α = [member.attention_weights(source, ids) for member in members]
  np.testing.assert_allclose(ensemble.attention_weights(source, ids), np.mean(α, 0), atol=1e-6)
  tokens, lengths = source[:, None], np.array([len(source)])
  memory, carry = ensemble.model.apply(
    {"params": ensemble.params}, tokens, lengths, method="encode"
  )
  encoded = EncodedSource(ensemble.params, tokens, memory)
  carry, _ = ensemble.model.predict_next(encoded, np.array([[BOS], *ids[:, None]]), None, carry)
  expected = [np.log(np.minimum(weights.sum(0), 1)).sum() for weights in α[1:]]
  np.testing.assert_allclose(
    ensemble.model.coverage_score(memory, carry), [np.mean(expected)], rtol=1e-4
  )
