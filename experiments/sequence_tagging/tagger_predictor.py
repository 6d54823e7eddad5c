"""A trained tagger that one can ask."""

import functools
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.sequence_tagging import bio_tags
from experiments.sequence_tagging import plots as tags
from experiments.sequence_tagging.data import Sentence
from experiments.sequence_tagging.lexicon import Lexicon
from rnnjax.models.tagger import Tagger
from rnnjax.types import InvalidInputError, Params


class TaggedSentence(NamedTuple):
  """A sentence's likeliest tags, and of each the probability that it stands there. [T]"""

  tags: list[str]
  probabilities: np.ndarray


class TaggerPredictor(NamedTuple):
  """A tagger, its parameters, and its lexicon.

      labeller = tagging.load("runs/ner")
      labeller(["Teddy Roosevelt was a great President !".split()])[0].tags

  Attributes:
    model, params: what reads and decides.
    lexicon: what stands for what.
  """

  model: Tagger
  params: Params
  lexicon: Lexicon

  def __call__(
    self, sentences: Sequence[Sequence[str]], columns: Sequence | None = None, batch_size: int = 64
  ) -> list[TaggedSentence]:
    """Tags sentences, `batch` at once; columns are those that the lexicon has beside the shapes.

    Raises:
      BadInput: no sentence, an empty one, or columns that are missing.
    """
    if not sentences or not all(sentences) or any(isinstance(words, str) for words in sentences):
      raise InvalidInputError(
        "sentences must be lists of words, at least one, and none of them empty"
      )
    columns = [[]] * len(sentences) if columns is None else columns
    needed = len(self.lexicon.columns) - 1
    fit = lambda words, own: [len(column) for column in own] == [len(words)] * needed
    if len(columns) != len(sentences) or not all(map(fit, sentences, columns)):
      raise InvalidInputError(
        f"this tagger reads {needed} columns beside the words, such as parts of speech, each as "
        "long as its sentence; one that shall tag bare sentences is trained with --use_extra_columns=false"
      )
    bare = [Sentence(list(words), [], own, 0, "") for words, own in zip(sentences, columns)]
    batches = self.lexicon.make_batches(bare, min(batch_size, len(bare)))
    labelled: list = [None] * len(sentences)
    for made in batches:  # by length
      best, p = map(np.asarray, _predict_batch(self.model, self.params, made))
      for b in np.flatnonzero(made["weights"]):
        n = made["lengths"][b]
        names = [self.lexicon.tags[tag] for tag in best[:n, b]]
        labelled[made["labels"][b]] = TaggedSentence(names, p[:n, b])
    return labelled

  @property
  def extract_units(self):
    """What is counted: spans, or words where the tags are not of spans."""
    return bio_tags.extract_spans if bio_tags.span_tables(self.lexicon.tags) else tags.word_spans

  def evaluate(self, sentences: Sequence[Sentence]) -> tuple[dict[str, float], str]:
    """Tags sentences whose tags are known.

    Returns:
      seqeval's strict F1, where the tags are of spans, and how many words are tagged in a second
      once all is compiled; and a table of errors.
    """
    from seqeval.metrics import f1_score  # and with it scikit-learn, a second
    from seqeval.scheme import IOBES

    both = [s.words for s in sentences], [s.columns for s in sentences]
    self(*both)
    begun = time.perf_counter()
    found, true = [one.tags for one in self(*both)], [s.tags for s in sentences]
    scores = {"words_per_second": sum(map(len, true)) / (time.perf_counter() - begun)}
    if self.extract_units is bio_tags.extract_spans:
      scores["seqeval"] = float(f1_score(true, found, mode="strict", scheme=IOBES))
    return scores, tags.error_table(true, found, self.extract_units)

  def highlight(self, words: Sequence[str]) -> tuple[str, list[str]]:
    """A sentence in the colours of its tags, with their probabilities; and the tags."""
    (one,) = self([words])
    return tags.colored_sentence(words, *one, self.extract_units), one.tags


@functools.partial(jax.jit, static_argnums=0)
def _predict_batch(model, params, batch):
  """The best tags and their marginals, [T, B] each."""
  inputs = map(batch.get, ("tokens", "lengths", "characters", "columns"))
  last, scores = model.apply({"params": params}, *inputs)
  best = model.tag_layer.best_tags(last, scores, batch["lengths"])
  marginals = model.tag_layer.marginals(last, scores, batch["lengths"])
  return best, jnp.take_along_axis(marginals, best[..., None], -1)[..., 0]
