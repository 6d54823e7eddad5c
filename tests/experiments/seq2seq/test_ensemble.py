"""Models that write together: the mean of their probabilities, and what that leaves as it was."""

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
  """The Ensemble of (model, params), and its parameters."""
  models, params = zip(*members)
  return Ensemble(models), params


@functools.cache
def random_member(seed, **how):
  scale = 1 + seed
  return make_model(**how), jax.tree.map(lambda p: scale * p, random_params(**how))


def test_probabilities_are_averaged():
  """Word by word, of members that differ in their parameters and their decoders."""
  members = [random_member(0), random_member(1), random_member(2, feed=True)]
  tokens, lengths, targets, _ = random_inputs()
  each = [
    np.exp(log_softmax(reference_logits(*one, tokens, lengths, targets[:-1])[0])) for one in members
  ]
  model, params = make_ensemble(*members)
  memory, carry = model.apply({"params": params}, tokens, lengths, method="remember")
  known, read = EncodedSource(params, tokens, memory), jax.jit(model.predict_next)
  for t in range(T):
    carry, found = read(known, targets[t : t + 1], None, carry)
    np.testing.assert_allclose(np.exp(found), np.mean(each, 0)[t], atol=1e-6)


def ensemble_predictor(*rewriters):
  model, params = make_ensemble(*(one[:2] for one in rewriters))
  return Seq2SeqPredictor(model, params, *rewriters[0][2:])


@pytest.mark.parametrize("how", [{}, {"feed": True}], ids=["plain", "fed"])
def test_ensemble_of_identical_models_equals_one(how):
  """What it writes and attends to, with a coverage penalty, too."""
  alone = make_predictor(**how)
  twice = ensemble_predictor(alone, alone)
  assert twice(TEXTS) == alone(TEXTS)
  penalty = {"coverage_penalty": 9.0}
  assert twice(TEXTS, **penalty) == alone(TEXTS, **penalty)
  source, ids = (append_end(alone.source_tokenizer.encode(text)) for text in TEXTS[:2])
  np.testing.assert_allclose(
    twice.attention_weights(source, ids), alone.attention_weights(source, ids), atol=1e-6
  )


def test_attention_and_coverage_are_averaged():
  """Of all members, and of those that keep count."""
  one, other, third = (
    make_predictor(seed, feed=feed) for seed, feed in ((6, False), (5, True), (4, True))
  )
  every = ensemble_predictor(one, other, third)
  source, ids = (append_end(one.source_tokenizer.encode(text)) for text in TEXTS[:2])
  α = [member.attention_weights(source, ids) for member in (one, other, third)]
  np.testing.assert_allclose(every.attention_weights(source, ids), np.mean(α, 0), atol=1e-6)
  tokens, lengths = source[:, None], np.array([len(source)])
  memory, carry = every.model.apply({"params": every.params}, tokens, lengths, method="remember")
  known = EncodedSource(every.params, tokens, memory)
  carry, _ = every.model.predict_next(known, np.array([[BOS], *ids[:, None]]), None, carry)
  expected = [np.log(np.minimum(own.sum(0), 1)).sum() for own in α[1:]]
  np.testing.assert_allclose(
    every.model.coverage_score(memory, carry), [np.mean(expected)], rtol=1e-4
  )
