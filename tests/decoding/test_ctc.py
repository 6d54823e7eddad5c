"""CTC decoding, compared with sums over all alignments."""

import itertools

import numpy as np
import pytest

from rnnjax.decoding import ctc


def random_log_probs(T, K, seed):
  logits = 2 * np.random.default_rng(seed).normal(size=(T, K))
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def collapse_alignment(alignment):
  """Merge repeated symbols, then remove blanks."""
  return tuple(k for k, _ in itertools.groupby(alignment) if k)


def exhaustive_probs(scores):
  """Return {labels: p}, summed over all K^T alignments."""
  probs = {}
  for alignment in itertools.product(range(scores.shape[1]), repeat=len(scores)):
    p = np.exp(sum(scores[t, k] for t, k in enumerate(alignment)))
    labels = collapse_alignment(alignment)
    probs[labels] = probs.get(labels, 0) + p
  return probs


@pytest.mark.parametrize("T, K", [(1, 2), (4, 3), (6, 2), (5, 3)])
def test_wide_beam_is_exact(T, K):
  """A beam that discards nothing finds every labeling with its exact probability, best first."""
  for seed in range(3):
    scores = random_log_probs(T, K, seed)
    expected, results = exhaustive_probs(scores), ctc.prefix_beam_search(scores, 10_000)
    assert {y for y, p in results if p > -np.inf} == expected.keys()
    for labels, p in results:
      np.testing.assert_allclose(np.exp(p), expected.get(labels, 0.0), rtol=1e-9)
    assert [p for _, p in results] == sorted((p for _, p in results), reverse=True)


def test_narrow_beam_is_lower_bound():
  scores = random_log_probs(6, 3, 0)
  expected = exhaustive_probs(scores)
  for beam_size in (1, 2, 4):
    results = ctc.prefix_beam_search(scores, beam_size)
    assert len(results) == beam_size
    assert all(np.exp(p) <= expected[y] * (1 + 1e-9) for y, p in results)


def test_beam_sums_over_alignments():
  """The best alignment, all blanks, has p = .36, but those of "1" sum to .64 (Graves 2006)."""
  scores = np.log([[0.6, 0.4], [0.6, 0.4]])
  assert ctc.greedy_decode(scores) == []
  (labels, p), *_ = ctc.prefix_beam_search(scores, 2)
  assert labels == (1,)
  assert np.exp(p) == pytest.approx(0.64)


@pytest.mark.parametrize(
  "alignment, labels",
  [
    ([], []),
    ([0, 0], []),
    ([1, 1, 1], [1]),
    ([1, 0, 1], [1, 1]),
    ([0, 2, 2, 1, 0, 1], [2, 1, 1]),
  ],
)
def test_greedy_on_small_examples(alignment, labels):
  scores = np.log(np.eye(3)[np.array(alignment, int)] * 0.9 + 0.05)
  assert ctc.greedy_decode(scores) == labels
  assert list(ctc.prefix_beam_search(scores, 4)[0][0]) == labels


def test_zero_steps_give_empty_labels():
  assert ctc.prefix_beam_search(np.zeros((0, 3)), 4) == [((), 0.0)]


def test_invalid_shape_or_beam_size_raises():
  with pytest.raises(ValueError, match="beam_size must be at least 1"):
    ctc.prefix_beam_search(np.zeros((2, 3)), 0)
  with pytest.raises(ValueError, match=r"log_p \[T, K\]; got 2, \(3,\)"):
    ctc.prefix_beam_search(np.zeros(3), 2)
