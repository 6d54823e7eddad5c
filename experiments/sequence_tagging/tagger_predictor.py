"""Inference with a trained tagger."""

import functools
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.sequence_tagging import bio_tags, plots
from experiments.sequence_tagging.data import Sentence
from experiments.sequence_tagging.lexicon import Lexicon
from rnnjax.models.tagger import Tagger
from rnnjax.types import InvalidInputError, Params


class TaggedSentence(NamedTuple):
  """The predicted tags of a sentence.

  Attributes:
    tags: the most probable tag sequence.
    probabilities: the marginal probability of each tag in `tags` [T].
  """

  tags: list[str]
  probabilities: np.ndarray


class TaggerPredictor(NamedTuple):
  """A trained tagger that maps sentences to tags.

      predictor = tagging.load("runs/ner")
      predictor(["Teddy Roosevelt was a great President !".split()])[0].tags

  Attributes:
    model: the tagger.
    params: the parameters of the tagger.
    lexicon: the vocabularies of the tagger.
  """

  model: Tagger
  params: Params
  lexicon: Lexicon

  def __call__(
    self, sentences: Sequence[Sequence[str]], columns: Sequence | None = None, batch_size: int = 64
  ) -> list[TaggedSentence]:
    """Tag sentences.

    Args:
      sentences: the words of each sentence.
      columns: the extra columns of each sentence; None for a model without extra columns.
      batch_size: the maximum number of sentences in a batch.

    Raises:
      InvalidInputError: `sentences` or a sentence is empty, or extra columns are missing.
    """
    if not sentences or not all(sentences) or any(isinstance(words, str) for words in sentences):
      raise InvalidInputError(
        "sentences must be a list of lists of words, with at least one sentence, and no empty one"
      )
    columns = [[]] * len(sentences) if columns is None else columns
    num_columns = len(self.lexicon.columns) - 1  # word shapes are not an extra column

    def has_columns(words, extra_columns):
      return [len(column) for column in extra_columns] == [len(words)] * num_columns

    if len(columns) != len(sentences) or not all(map(has_columns, sentences, columns)):
      raise InvalidInputError(
        f"this tagger reads {num_columns} columns in addition to the words, such as parts of "
        "speech, each as long as its sentence. To tag sentences without columns, train with "
        "--use_extra_columns=false"
      )
    untagged = [
      Sentence(list(words), [], extra_columns, 0, "")
      for words, extra_columns in zip(sentences, columns)
    ]
    predictions: list = [None] * len(sentences)
    # Batches are sorted by length; "labels" holds positions in `sentences`.
    for batch in self.lexicon.make_batches(untagged, min(batch_size, len(untagged))):
      tag_ids, probabilities = map(np.asarray, _predict_batch(self.model, self.params, batch))
      for b in np.flatnonzero(batch["weights"]):
        length = batch["lengths"][b]
        tags = [self.lexicon.tags[i] for i in tag_ids[:length, b]]
        predictions[batch["labels"][b]] = TaggedSentence(tags, probabilities[:length, b])
    return predictions

  @property
  def get_spans(self):
    """`extract_spans` if the tags form spans, else `word_spans`."""
    has_spans = bio_tags.span_tables(self.lexicon.tags)
    return bio_tags.extract_spans if has_spans else plots.word_spans

  def evaluate(self, sentences: Sequence[Sentence]) -> tuple[dict[str, float], str]:
    """Tag sentences and compare the predictions with the true tags.

    Returns:
      (scores, error table). "words_per_second" is the speed without compilation. "seqeval" is the
      strict F1 of seqeval; "seqeval" is present if the tags form spans.
    """
    from seqeval.metrics import f1_score  # imports scikit-learn, which takes a second
    from seqeval.scheme import IOBES

    inputs = [s.words for s in sentences], [s.columns for s in sentences]
    self(*inputs)  # compile, so that only tagging is timed below
    start = time.perf_counter()
    predicted = [prediction.tags for prediction in self(*inputs)]
    seconds = time.perf_counter() - start
    true = [s.tags for s in sentences]
    scores = {"words_per_second": sum(map(len, true)) / seconds}
    if self.get_spans is bio_tags.extract_spans:
      scores["seqeval"] = float(f1_score(true, predicted, mode="strict", scheme=IOBES))
    return scores, plots.error_table(true, predicted, self.get_spans)

  def highlight(self, words: Sequence[str]) -> tuple[str, list[str]]:
    """Tag a sentence; return (text with colored spans and tag probabilities, tags)."""
    (prediction,) = self([words])
    return plots.colored_sentence(words, *prediction, self.get_spans), prediction.tags


@functools.partial(jax.jit, static_argnums=0)
def _predict_batch(model, params, batch):
  """Return the most probable tags [T, B] and their marginal probabilities [T, B]."""
  inputs = map(batch.get, ("tokens", "lengths", "characters", "columns"))
  tag_params, scores = model.apply({"params": params}, *inputs)
  tags = model.tag_layer.best_tags(tag_params, scores, batch["lengths"])
  marginals = model.tag_layer.marginals(tag_params, scores, batch["lengths"])
  return tags, jnp.take_along_axis(marginals, tags[..., None], -1)[..., 0]
