"""Models that write together: the mean of their probabilities, and what that leaves as it was."""

import functools

import jax
import numpy as np
import pytest

from rnnjax.data.tokenizer import BEGIN
from rnnjax.models.ensemble import Ensemble
from rnnjax.models.seq2seq import Source
from rnnjax.models.seq2seq_predictor import Rewriter, ended
from tests.test_translator import TEXTS, T, asked, given, log_p, logits_of, made, parameters


def together(*members):
  """The Ensemble of (model, params), and its parameters."""
  models, params = zip(*members)
  return Ensemble(models), params


@functools.cache
def drawn_apart(seed, **how):
  scale = 1 + seed
  return made(**how), jax.tree.map(lambda p: scale * p, parameters(**how))


def test_probabilities_are_averaged():
  """Word by word, of members that differ in their parameters and their decoders."""
  members = [drawn_apart(0), drawn_apart(1), drawn_apart(2, feed=True)]
  tokens, lengths, targets, _ = given()
  each = [np.exp(log_p(logits_of(*one, tokens, lengths, targets[:-1])[0])) for one in members]
  model, params = together(*members)
  memory, carry = model.apply({"params": params}, tokens, lengths, method="remember")
  known, read = Source(params, tokens, memory), jax.jit(model.read)
  for t in range(T):
    carry, found = read(known, targets[t : t + 1], None, carry)
    np.testing.assert_allclose(np.exp(found), np.mean(each, 0)[t], atol=1e-6)


def rewriter_of(*rewriters):
  model, params = together(*(one[:2] for one in rewriters))
  return Rewriter(model, params, *rewriters[0][2:])


@pytest.mark.parametrize("how", [{}, {"feed": True}], ids=["plain", "fed"])
def test_one_voice_twice_is_that_voice(how):
  """What it writes and attends to, with a coverage penalty, too."""
  alone = asked(**how)
  twice = rewriter_of(alone, alone)
  assert twice(TEXTS) == alone(TEXTS)
  penalty = {"coverage_penalty": 9.0}
  assert twice(TEXTS, **penalty) == alone(TEXTS, **penalty)
  source, ids = (ended(alone.source.encode(text)) for text in TEXTS[:2])
  np.testing.assert_allclose(twice.look(source, ids), alone.look(source, ids), atol=1e-6)


def test_attention_and_coverage_are_means():
  """Of all members, and of those that keep count."""
  one, other, third = (asked(seed, feed=feed) for seed, feed in ((6, False), (5, True), (4, True)))
  every = rewriter_of(one, other, third)
  source, ids = (ended(one.source.encode(text)) for text in TEXTS[:2])
  α = [member.look(source, ids) for member in (one, other, third)]
  np.testing.assert_allclose(every.look(source, ids), np.mean(α, 0), atol=1e-6)
  tokens, lengths = source[:, None], np.array([len(source)])
  memory, carry = every.model.apply({"params": every.params}, tokens, lengths, method="remember")
  known = Source(every.params, tokens, memory)
  carry, _ = every.model.read(known, np.array([[BEGIN], *ids[:, None]]), None, carry)
  expected = [np.log(np.minimum(own.sum(0), 1)).sum() for own in α[1:]]
  np.testing.assert_allclose(every.model.covered(memory, carry), [np.mean(expected)], rtol=1e-4)
