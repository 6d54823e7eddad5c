"""The embedded reviews: order is all, so a bag of words is right on exactly half."""

import collections

import numpy as np

from experiments.text_classification import data as imdb_data
from experiments.text_classification import synthetic_reviews
from rnnjax.data.vocabulary import words

PAIRS = synthetic_reviews.pairs(60)


def test_twins_are_the_same_words():
  """Each pair has one multiset of words, two orders and two labels."""
  for (good, one), (bad, zero) in zip(PAIRS[::2], PAIRS[1::2], strict=True):
    assert (one, zero) == (1, 0)
    assert good != bad
    assert collections.Counter(words(good)) == collections.Counter(words(bad))


def test_any_bag_of_words_is_at_chance():
  """Whatever the weights of words, a linear bag of words is right on one of each two."""
  vocabulary = sorted({word for text, _ in PAIRS for word in words(text)})
  counts = np.array([[words(text).count(word) for word in vocabulary] for text, _ in PAIRS])
  labels = np.array([label for _, label in PAIRS])
  for seed in range(5):
    weights = np.random.default_rng(seed).integers(-9, 10, len(vocabulary))
    right = (counts @ weights > 0) == labels
    np.testing.assert_array_equal(right.reshape(-1, 2).sum(1), 1)


def test_pairs_follow_from_the_seed():
  """One seed, one set, whatever its size; another seed, another set."""
  assert synthetic_reviews.pairs(60) == PAIRS == synthetic_reviews.pairs(90)[:120]
  assert synthetic_reviews.pairs(60, seed=1) != PAIRS


def test_no_part_has_a_text_of_another():
  parts = imdb_data.embedded()[2:]
  texts = [text for part in parts for text, _ in part]
  assert len({*texts}) == len(texts) == 4000
