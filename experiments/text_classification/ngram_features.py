"""N-gram features: smoothed log-count ratios of n-grams in the training set.

Wang & Manning (2012), "Baselines and Bigrams", weight a bag of n-grams by these ratios. Here the
ratios are concatenated to the word embeddings, as inputs of a recurrent network.
"""

from collections.abc import Sequence

import numpy as np

from rnnjax.types import InvalidInputError

SCALE = 0.3  # scales the ratios to about the magnitude of embedding values

TokenIds = Sequence[np.ndarray]


class NgramFeatures:
  """Log-count ratios of the n-grams that end at each step, n = 1 ... max_order.

      rₖ(g) = s [log (1 + #texts of class k with g)/Σ − log (1 + #texts of other classes with g)/Σ]

  s is SCALE. Each Σ is the sum of its numerator over all n-grams g of the same order.

  Counts that include a training text leak its label. Therefore the features of the training set are
  cross-fitted: the features of each fold use counts from the other folds.

  Args:
    texts: token ids [T] of each training text.
    labels: the class index of each text.
    num_classes: the number of classes. An n-gram has K ratios. K = 1 for two classes; otherwise
      K = num_classes.
    max_order: the maximum n. The ratios of an n-gram that occurs only once are 0.
    num_folds: the number of folds for cross-fitting. Consecutive texts of a class share a fold.

  Attributes:
    base: 1 + the largest token id.
    ngrams: for each order, the sorted keys of the G n-grams that occur at least twice.
    ratios: for each order, the ratios [G + 1, K] of `ngrams`. The last row is 0, the ratio of every
      unknown n-gram.
    cross_fitted_features: the features of each training text, [T, max_order · K].

  Raises:
    InvalidInputError: the keys of the longest n-grams do not fit in 63 bits.
  """

  def __init__(
    self, texts: TokenIds, labels: Sequence[int], num_classes: int, max_order=3, num_folds=10
  ):
    self.base = 1 + max((int(text.max()) for text in texts if len(text)), default=0)
    self.max_order, labels = max_order, np.asarray(labels)
    if self.base**max_order > np.iinfo(np.int64).max:
      limit = int(np.log(np.iinfo(np.int64).max) / np.log(self.base))
      raise InvalidInputError(
        f"n-grams of a vocabulary of {self.base} words must have at most {limit} words to fit in "
        f"an int64; got {max_order}"
      )
    self.class_ids = range(1, 2) if num_classes == 2 else range(num_classes)

    # Consecutive texts of a class form a fold, so that reviews of one film share a fold.
    fold_of_text = np.zeros(len(labels), int)
    for label in range(num_classes):
      members = labels == label
      fold_of_text[members] = np.arange(members.sum()) * num_folds // max(members.sum(), 1)

    text_of_token = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    self.ngrams, self.ratios, feature_columns = [], [], []
    for order in range(1, max_order + 1):
      keys = self._ngram_keys(texts, order)
      unique_keys, counts = np.unique(keys, return_counts=True)
      self.ngrams.append(unique_keys[(counts > 1) & (unique_keys >= 0)])
      indices, num_indices = self._ngram_indices(order, keys), len(self.ngrams[-1]) + 1
      # An n-gram is counted at most once per text.
      text, ngram = np.divmod(np.unique(text_of_token * num_indices + indices), num_indices)
      cell = (fold_of_text[text] * num_classes + labels[text]) * num_indices + ngram
      counts = np.bincount(cell, minlength=num_folds * num_classes * num_indices)
      counts = counts.reshape(num_folds, num_classes, num_indices)
      self.ratios.append(self._log_ratios(counts.sum(0)))

      features = np.zeros((len(indices), len(self.class_ids)), np.float32)
      for fold in range(num_folds):
        in_fold = fold_of_text[text_of_token] == fold
        features[in_fold] = self._log_ratios(counts.sum(0) - counts[fold])[indices[in_fold]]
      feature_columns.append(features)
    self.cross_fitted_features = self._split_by_text(np.concatenate(feature_columns, -1), texts)

  def __call__(self, texts: TokenIds) -> list[np.ndarray]:
    """Return the features of texts outside the training set.

    Args:
      texts: token ids [T] of each text.

    Returns:
      The features [T, max_order · K] of each text; K is 1 for two classes.
    """
    columns = [
      self.ratios[order - 1][self._ngram_indices(order, self._ngram_keys(texts, order))]
      for order in range(1, self.max_order + 1)
    ]
    return self._split_by_text(np.concatenate(columns, -1), texts)

  def _ngram_keys(self, texts, order):
    """Return an integer key of the n-gram that ends at each token of the concatenated texts.

    The key is −1 if the n-gram would start before the beginning of its text.
    """
    ids = np.concatenate([np.zeros(0, np.int64), *texts]).astype(np.int64)
    lengths = [len(text) for text in texts]
    position = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    keys = sum(np.roll(ids, j) * self.base**j for j in range(order))
    return np.where(position < order - 1, -1, keys)

  def _ngram_indices(self, order, keys):
    """Return the index of each key in `ngrams[order - 1]`; G for an unknown key."""
    ngrams = self.ngrams[order - 1]
    if not len(ngrams):
      return np.zeros(len(keys), int)
    indices = np.minimum(np.searchsorted(ngrams, keys), len(ngrams) - 1)
    return np.where(ngrams[indices] == keys, indices, len(ngrams))

  def _log_ratios(self, counts):
    """Convert counts [num_classes, G + 1] to ratios [G + 1, K]; the last row is 0."""
    columns = []
    for k in self.class_ids:
      inside, outside = counts[k] + 1, counts.sum(0) - counts[k] + 1
      columns.append(np.log(inside / inside.sum()) - np.log(outside / outside.sum()))
    ratios = SCALE * np.stack(columns, -1)
    ratios[-1] = 0
    return ratios.astype(np.float32)

  def _split_by_text(self, features, texts):
    return np.split(features, np.cumsum([len(text) for text in texts]))[:-1]
