"""Inference with a trained text classifier."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.text_classification.ngram_lookup import NgramTrie
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.data.vocabulary import UNKNOWN, Vocabulary, tokenize_lower
from rnnjax.models.classifier import Classifier
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError, Params


class ClassifierPredictor(NamedTuple):
  """A trained classifier that maps texts to class probabilities.

      classify = imdb.load("runs/imdb")
      (probabilities,) = classify(["a touching film"])

  Attributes:
    model: the classifier.
    params: the parameters of the classifier.
    vocabulary: all words of the training set; the n-grams use these token ids.
    vocab_size: the vocabulary size of the model; token ids ≥ vocab_size become unknown.
    classes: the name of each class.
    ngrams: the n-gram features; None if the model does not use them.
    max_length: the maximum number of words; longer texts are truncated.
    truncation: the part of a longer text that is kept, "first" or "last".
    padding: the side on which short texts are padded, "back" or "front".
  """

  model: Classifier
  params: Params
  vocabulary: Vocabulary
  vocab_size: int
  classes: tuple[str, ...]
  ngrams: NgramTrie | None
  max_length: int
  truncation: str
  padding: str

  def __call__(self, texts: Sequence[str], batch_size: int = 64) -> list[dict[str, float]]:
    """Return {class: probability} for each text.

    Raises:
      InvalidInputError: `texts` is empty, or a text has no words.
    """
    token_ids = [self.vocabulary.encode(tokenize_lower(text)) for text in texts]
    if not token_ids or not all(map(len, token_ids)):
      raise InvalidInputError("texts must have at least one text, each with at least one word")
    extras = {}
    if self.ngrams:
      # As in training, n-gram features are computed before texts are truncated.
      features = (self.ngrams(ids[:, None], np.array([len(ids)])) for ids in token_ids)
      extras = {"features": [np.asarray(array)[:, 0] for array in features]}
    batches = BucketedBatches(
      [np.where(ids < self.vocab_size, ids, UNKNOWN) for ids in token_ids],
      range(len(texts)),
      min(batch_size, len(texts)),
      self.max_length,
      self.truncation,
      self.padding,
      extras=extras,
    )
    predict = jax.jit(tasks.classification_task(self.model).predict)
    predictions: list = [None] * len(texts)
    for batch in batches:  # batches are sorted by length; "labels" holds positions in `texts`
      probabilities = np.asarray(predict(self.params, batch)["probabilities"])
      for row in np.flatnonzero(batch["weights"]):
        values = probabilities[row].tolist()
        predictions[batch["labels"][row]] = dict(zip(self.classes, values, strict=True))
    return predictions
