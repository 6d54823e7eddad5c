"""A trained tagger that one can ask."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.data.lexicon import Lexicon
from rnnjax.data.tagged import Sentence
from rnnjax.models.tagger import Tagger
from rnnjax.types import BadInput, Params


class Labelled(NamedTuple):
  """A sentence's likeliest tags, and of each the probability that it stands there. [T]"""

  tags: list[str]
  probabilities: np.ndarray


class Labeller(NamedTuple):
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
    self, sentences: Sequence[Sequence[str]], columns: Sequence | None = None, batch: int = 64
  ) -> list[Labelled]:
    """Tags sentences, `batch` at once; columns are those that the lexicon has beside the shapes.

    Raises:
      BadInput: no sentence, an empty one, or columns that are missing.
    """
    if not sentences or not all(sentences):
      raise BadInput("there must be a sentence, and each must have a word")
    columns = columns or [[]] * len(sentences)
    needed = len(self.lexicon.columns) - 1
    if any(len(own) != needed for own in columns):
      raise BadInput(
        f"this tagger reads {needed} columns beside the words, such as parts of speech; "
        "one that shall tag bare sentences is trained with --columns=false"
      )
    bare = [Sentence(list(words), [], own, 0, "") for words, own in zip(sentences, columns)]
    batches = self.lexicon.batches(bare, min(batch, len(bare)))
    labelled: list = [None] * len(sentences)
    for made in batches:  # by length
      tags, p = map(np.asarray, _read(self.model, self.params, made))
      for b in np.flatnonzero(made["weights"]):
        n = made["lengths"][b]
        names = [self.lexicon.tags[tag] for tag in tags[:n, b]]
        labelled[made["labels"][b]] = Labelled(names, p[:n, b])
    return labelled


@functools.partial(jax.jit, static_argnums=0)
def _read(model, params, batch):
  """The best tags and their marginals, [T, B] each."""
  inputs = map(batch.get, ("tokens", "lengths", "characters", "columns"))
  last, scores = model.apply({"params": params}, *inputs)
  tags = model.tags.best(last, scores, batch["lengths"])
  marginals = model.tags.marginals(last, scores, batch["lengths"])
  return tags, jnp.take_along_axis(marginals, tags[..., None], -1)[..., 0]
