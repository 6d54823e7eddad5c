"""N-gram features against counts by hand, and cross-fitting."""

import math

import numpy as np
import pytest

from experiments.text_classification.ngram_features import SCALE, NgramFeatures
from rnnjax.types import InvalidInputError

TEXTS = [np.array(t) for t in ([2, 3, 2], [2, 4], [2, 3], [4, 3, 5], [4, 2], [4, 3, 2, 3])]
LABELS = [1, 1, 1, 0, 0, 0]


def test_unigram_log_ratios():
  """Unigrams that occur twice; the unknown unigram is one more entry of the distribution."""
  ngram_features = NgramFeatures(TEXTS, LABELS, 2, max_order=1)
  frequent_words, rare_word = (2, 3, 4), 5  # 5 occurs but once
  counts = lambda word, label: 1 + sum(word in t for t, l in zip(TEXTS, LABELS) if l == label)
  total = [sum(counts(word, label) for word in (*frequent_words, rare_word)) for label in (0, 1)]
  for word in frequent_words:
    expected = math.log(counts(word, 1) / total[1]) - math.log(counts(word, 0) / total[0])
    assert ngram_features([np.array([word])])[0][0, 0] == pytest.approx(SCALE * expected, rel=1e-6)


def test_unknown_ngrams_have_zero_ratio():
  """So does a word that occurs once, and an n-gram that would start before the text."""
  (ratios,) = NgramFeatures(TEXTS, LABELS, 2, max_order=3)([np.array([5, 9, 2])])
  assert ratios[0, 0] == ratios[1, 0] == 0
  assert (ratios[0, 1:] == 0).all()
  assert ratios[1, 2] == 0


def test_cross_fitting_excludes_own_label():
  """Changing the labels of one fold does not change that fold's features."""
  rng = np.random.default_rng(0)
  texts = [rng.integers(2, 6, 8) for _ in range(40)]
  labels = np.arange(40) % 2
  flipped = labels.copy()
  flipped[[6, 7]] = labels[[7, 6]]  # neighbours, in the same tenth of their classes
  a, b = (NgramFeatures(texts, l, 2, max_order=2).cross_fitted_features for l in (labels, flipped))
  np.testing.assert_array_equal(a[6], b[6])
  assert not np.array_equal(a[0], b[0])


def test_new_texts_use_all_training_counts():
  """If every fold has the same texts, cross-fitting changes the features only slightly."""
  ngram_features = NgramFeatures(TEXTS * 10, LABELS * 10, 2, max_order=2)
  all_counts, cross_fitted = ngram_features(TEXTS)[0], ngram_features.cross_fitted_features[0]
  assert np.sign(all_counts[0, 0]) == np.sign(cross_fitted[0, 0])
  assert not np.array_equal(all_counts, cross_fitted)
  assert np.abs(all_counts - cross_fitted).max() < 0.1


def test_multiclass_has_one_column_per_class():
  """For K > 2, column k of each order is the ratio of class k against the rest."""
  texts = [np.array([2, 2 + k]) for k in range(1, 4) for _ in range(5)]
  labels = [k for k in range(3) for _ in range(5)]
  (ratios,) = NgramFeatures(texts, labels, 3, max_order=1)([np.array([4])])
  assert ratios.shape == (1, 3)
  assert np.argmax(ratios[0]) == 1
  assert (ratios[0, [0, 2]] < 0).all()


def test_empty_texts_are_kept():
  texts = [np.array([], int), *TEXTS, np.array([], int)]
  ngram_features = NgramFeatures(texts, [0, *LABELS, 1], 2, max_order=2)
  assert [len(r) for r in ngram_features.cross_fitted_features] == [len(t) for t in texts]
  assert [len(r) for r in ngram_features([TEXTS[0], np.array([], int)])] == [3, 0]
  assert ngram_features([]) == []


def test_key_overflow_raises():
  """The keys of three of 10⁵ words fit in 63 bits, those of four do not."""
  texts = [np.array([10**5 - 1, 2, 3, 4])] * 2
  NgramFeatures(texts, [0, 1], 2, max_order=3)
  with pytest.raises(
    InvalidInputError, match="of 100000 words must have at most 3 words to fit in an int64; got 4"
  ):
    NgramFeatures(texts, [0, 1], 2, max_order=4)
