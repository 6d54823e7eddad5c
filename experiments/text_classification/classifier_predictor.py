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
  """A classifier, its parameters, and what turns texts into its inputs.

      classify = imdb.load("runs/imdb")
      (probabilities,) = classify(["a touching film"])

  Attributes:
    model: the classifier.
    params: its parameters.
    vocabulary: all words of the training set, which the n-grams refer to.
    vocab_size: the number of words that the model knows; the others are unknown to it.
    classes: the label of each class.
    ngrams: the n-gram features; None if the model does not use them.
    max_length: longer texts are truncated to this number of words.
    truncation: the part of a longer text that is read, "first" or "last".
    padding: where short texts are padded, "back" or "front".
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
    """Return the probability of each class of each text.

    Raises:
      InvalidInputError: there is no text, or a text has no word.
    """
    token_ids = [self.vocabulary.encode(tokenize_lower(text)) for text in texts]
    if not token_ids or not all(map(len, token_ids)):
      raise InvalidInputError("texts must have at least one text, each with at least one word")
    extras = {}
    if self.ngrams:
      # Whole texts, before truncation, as in training.
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
    for batch in batches:  # sorted by length; the labels are the positions in `texts`
      probabilities = np.asarray(predict(self.params, batch)["probabilities"])
      for row in np.flatnonzero(batch["weights"]):
        values = probabilities[row].tolist()
        predictions[batch["labels"][row]] = dict(zip(self.classes, values, strict=True))
    return predictions
