"""Evidence: for each n-gram of a text, how much it speaks for a class, counted and not learnt.

Wang & Manning, Baselines and Bigrams, 2012, weigh a bag of n-grams by these ratios; here a
recurrent net reads them in order, beside the words.
"""

from collections.abc import Sequence

import numpy as np

from rnnjax.types import InvalidInputError

SCALE = 0.3  # brings the ratios to about the size of an embedding

TokenIds = Sequence[np.ndarray]


class NgramFeatures:
  """Log-count ratios of the n-grams that end at each step, n = 1 ... orders.

      rₖ(g) = log (1 + #texts of class k with g)/Σ − log (1 + #texts of other classes with g)/Σ

  A text of the training part would betray its own label through the counts it is part of. So its
  ratios are counted without its tenth of the training part (`cross_fitted`).

  Args:
    texts: the training part, arrays of ids [T].
    labels: one for each, below `classes`.
    classes: K; two classes share one ratio.
    orders: the longest n-gram; one that occurs but once in training says nothing.
    folds: into how many parts of neighbours the training part is cut.
  """

  def __init__(
    self, texts: TokenIds, labels: Sequence[int], num_classes: int, max_order=3, num_folds=10
  ):
    self.base = 1 + max((int(text.max()) for text in texts if len(text)), default=0)
    self.max_order, labels = max_order, np.asarray(labels)
    if self.base**max_order > np.iinfo(np.int64).max:
      most = int(np.log(np.iinfo(np.int64).max) / np.log(self.base))
      raise InvalidInputError(
        f"of {self.base} words n-grams are counted up to n = {most}; got {max_order}"
      )
    self.class_ids = range(1, 2) if num_classes == 2 else range(num_classes)
    rank = np.zeros(len(labels), int)
    for label in range(num_classes):
      own = labels == label
      rank[own] = np.arange(own.sum()) * num_folds // max(own.sum(), 1)
    doc = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    self.ngrams, self.ratios, columns = [], [], []
    for order in range(1, max_order + 1):
      keys = self._ngram_keys(texts, order)
      grams, counts = np.unique(keys, return_counts=True)
      self.ngrams.append(grams[(counts > 1) & (grams >= 0)])
      g, number = self._ngram_indices(order, keys), len(self.ngrams[-1]) + 1
      text, gram = np.divmod(np.unique(doc * number + g), number)  # each n-gram once a text
      cell = (rank[text] * num_classes + labels[text]) * number + gram
      counted = np.bincount(cell, minlength=num_folds * num_classes * number)
      counted = counted.reshape(num_folds, num_classes, number)
      self.ratios.append(self._log_ratios(counted.sum(0)))
      column = np.zeros((len(g), len(self.class_ids)), np.float32)
      for fold in range(num_folds):
        here = rank[doc] == fold
        column[here] = self._log_ratios(counted.sum(0) - counted[fold])[g[here]]
      columns.append(column)
    self.cross_fitted_features = self._split_by_text(np.concatenate(columns, -1), texts)

  def __call__(self, texts: TokenIds) -> list[np.ndarray]:
    """The ratios of other texts: [T, orders] each, or [T, orders · K] for more than two classes."""
    columns = [
      self.ratios[order - 1][self._ngram_indices(order, self._ngram_keys(texts, order))]
      for order in range(1, self.max_order + 1)
    ]
    return self._split_by_text(np.concatenate(columns, -1), texts)

  def _ngram_keys(self, texts, order):
    """One integer for each n-gram of the texts laid end to end; −1 where it would cross a start."""
    ids = np.concatenate([np.zeros(0, np.int64), *texts]).astype(np.int64)
    lengths = [len(text) for text in texts]
    place = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    keys = sum(np.roll(ids, j) * self.base**j for j in range(order))
    return np.where(place < order - 1, -1, keys)

  def _ngram_indices(self, order, keys):
    """The index of each key among the known n-grams; one past the last where it is unknown."""
    grams = self.ngrams[order - 1]
    if not len(grams):
      return np.zeros(len(keys), int)
    i = np.minimum(np.searchsorted(grams, keys), len(grams) - 1)
    return np.where(grams[i] == keys, i, len(grams))

  def _log_ratios(self, counts):
    """[number, targets] of counts [classes, number]; 0 for the unknown, which is last."""
    made = []
    for k in self.class_ids:
      yes, no = counts[k] + 1, counts.sum(0) - counts[k] + 1
      made.append(np.log(yes / yes.sum()) - np.log(no / no.sum()))
    ratio = SCALE * np.stack(made, -1)
    ratio[-1] = 0
    return ratio.astype(np.float32)

  def _split_by_text(self, features, texts):
    return np.split(features, np.cumsum([len(text) for text in texts]))[:-1]
