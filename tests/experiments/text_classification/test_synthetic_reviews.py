"""The embedded reviews: bags of words are right on exactly half of them."""

import collections

import numpy as np

from experiments.text_classification import data as imdb_data
from experiments.text_classification import synthetic_reviews
from rnnjax.data.vocabulary import tokenize_lower

PAIRS = synthetic_reviews.generate_reviews(60)


def test_paired_reviews_have_same_words():
  """Both reviews of a pair have the same words, in different orders and with opposite labels."""
  for (good, one), (bad, zero) in zip(PAIRS[::2], PAIRS[1::2], strict=True):
    assert (one, zero) == (1, 0)
    assert good != bad
    assert collections.Counter(tokenize_lower(good)) == collections.Counter(tokenize_lower(bad))


def test_linear_bag_of_words_is_at_chance():
  """With any weights, a linear bag of words is right on one review of each pair."""
  vocabulary = sorted({word for text, _ in PAIRS for word in tokenize_lower(text)})
  counts = np.array(
    [[tokenize_lower(text).count(word) for word in vocabulary] for text, _ in PAIRS]
  )
  labels = np.array([label for _, label in PAIRS])
  for seed in range(5):
    weights = np.random.default_rng(seed).integers(-9, 10, len(vocabulary))
    correct = (counts @ weights > 0) == labels
    np.testing.assert_array_equal(correct.reshape(-1, 2).sum(1), 1)


def test_pairs_depend_only_on_seed():
  """The number of pairs does not change the pairs; another seed does."""
  assert (
    synthetic_reviews.generate_reviews(60) == PAIRS == synthetic_reviews.generate_reviews(90)[:120]
  )
  assert synthetic_reviews.generate_reviews(60, seed=1) != PAIRS


def test_splits_share_no_text():
  splits = imdb_data.load_embedded()[2:]
  texts = [text for split in splits for text, _ in split]
  assert len({*texts}) == len(texts) == 4000
