"""What a tagger knows of its language: words, characters, columns and tags as ids."""

import logging
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.sequence_tagging.data import Sentence
from rnnjax.data.bucketed_batches import Batches
from rnnjax.data.vocabulary import SPECIALS, Vocabulary
from rnnjax.types import BadInput

LONGEST = 20  # characters of a word that are read: those at its beginning, and at its end
RARE = 3  # shapes and characters that occur less often are unknown
_DIGIT = re.compile(r"\d")


def normal(word: str) -> str:
  """A word as the table of words knows it: in lower case, each digit a 0.

  >>> normal("MI5-1996")
  'mi0-0000'
  """
  return _DIGIT.sub("0", word.lower())


def shape(word: str) -> str:
  """How a word is written: runs of upper and lower case, digits, marks (Collobert et al. 2011).

  >>> [shape(word) for word in ["Teddy", "U.S.", "1996-97", "eBay", "bears"]]
  ['Xx', 'X.X.', '0-0', 'xXx', 'x']
  """
  kind = lambda c: "X" if c.isupper() else "x" if c.isalpha() else "0" if c.isdigit() else c
  kinds = [kind(c) for c in word]
  return "".join(k for k, before in zip(kinds, ["", *kinds]) if k != before)


class Lexicon(NamedTuple):
  """Four vocabularies.

  Attributes:
    words: of normal words.
    characters: as they are written.
    columns: of the shapes first, and then of what else is read beside each word.
    tags: by their ids.
  """

  words: Vocabulary
  characters: Vocabulary
  columns: list[Vocabulary]
  tags: list[str]

  @classmethod
  def of(cls, sentences: Sequence[Sentence], tags: Iterable[str], least: int = 1) -> "Lexicon":
    """That of sentences to learn from; words that occur less often than `least` are unknown."""
    missed = set(tags) - {tag for sentence in sentences for tag in sentence.tags}
    if missed:
      logging.warning("no sentence to learn from has %s: they will be missed", sorted(missed))
    words = [sentence.words for sentence in sentences]
    shapes = Vocabulary.of([map(shape, sentence) for sentence in words], least=RARE)
    columns = [Vocabulary.of(column) for column in zip(*(s.columns for s in sentences))]
    return cls(
      Vocabulary.of([map(normal, sentence) for sentence in words], least=least),
      Vocabulary.of([word for sentence in words for word in sentence], least=RARE),
      [shapes, *columns],
      sorted(set(tags)),
    )

  def encode(self, sentence: Sentence) -> dict[str, np.ndarray]:
    """{"tokens": [T], "characters": [T, C], "columns": [T, N]}, and "tags": [T] if it has any."""
    letters = np.zeros((len(sentence.words), LONGEST), np.int32)
    for row, word in zip(letters, sentence.words):
      if len(word) > LONGEST:
        word = word[: LONGEST // 2] + word[-(LONGEST // 2) :]
      row[: len(word)] = self.characters.encode(word)
    beside = [list(map(shape, sentence.words)), *sentence.columns]
    ids = {tag: i for i, tag in enumerate(self.tags)}
    encoded = {
      "tokens": self.words.encode(list(map(normal, sentence.words))),
      "characters": letters,
      "columns": np.stack([own.encode(column) for own, column in zip(self.columns, beside)], -1),
    }
    tags = {"tags": np.array([ids[tag] for tag in sentence.tags], np.int32)}
    return encoded | (tags if sentence.tags else {})

  def batches(self, sentences: Sequence[Sentence], batch: int, seed: int | None = None) -> Batches:
    """Batches of sentences, which their labels number; arguments as for Batches."""
    encoded = [self.encode(sentence) for sentence in sentences]
    parts = {name: [one[name] for one in encoded] for name in encoded[0]}
    return Batches(parts.pop("tokens"), range(len(sentences)), batch, seed=seed, beside=parts)

  def json(self) -> dict:
    """As what JSON can hold."""
    ranked = lambda vocabulary: vocabulary.words[len(SPECIALS) :]
    return {
      "words": ranked(self.words),
      "characters": ranked(self.characters),
      "columns": [ranked(column) for column in self.columns],
      "tags": self.tags,
    }

  @classmethod
  def load(cls, made: dict) -> "Lexicon":
    """From what `json` gave.

    Raises:
      BadInput: it is of another kind.
    """
    if not isinstance(made, dict) or not made.keys() >= {"words", "characters", "columns", "tags"}:
      raise BadInput(f"a lexicon must have words, characters, columns, tags; got {str(made)[:60]}")
    if not isinstance(made["columns"], list) or not made["columns"]:
      raise BadInput(f"a lexicon must have columns, of shapes first; got {made['columns']!r:.60}")
    words, characters = Vocabulary.load(made["words"]), Vocabulary.load(made["characters"])
    columns = [*map(Vocabulary.load, made["columns"])]
    return cls(words, characters, columns, Vocabulary.load(made["tags"], ()).words)
