"""What a tagger knows of its language: words, characters, columns and tags as ids."""

import logging
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.sequence_tagging.data import Sentence
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.data.vocabulary import SPECIALS, Vocabulary
from rnnjax.types import InvalidInputError

MAX_WORD_LENGTH = 20  # characters of a word that are read: those at its beginning, and at its end
MIN_COUNT = 3  # shapes and characters that occur less often are unknown
_DIGIT = re.compile(r"\d")


def normalize_word(word: str) -> str:
  """A word as the table of words knows it: in lower case, each digit a 0.

  >>> normal("MI5-1996")
  'mi0-0000'
  """
  return _DIGIT.sub("0", word.lower())


def word_shape(word: str) -> str:
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
  def from_sentences(
    cls, sentences: Sequence[Sentence], tags: Iterable[str], min_count: int = 1
  ) -> "Lexicon":
    """That of sentences to learn from; words that occur less often than `least` are unknown."""
    missed = set(tags) - {tag for sentence in sentences for tag in sentence.tags}
    if missed:
      logging.warning("no sentence to learn from has %s: they will be missed", sorted(missed))
    words = [sentence.words for sentence in sentences]
    shapes = Vocabulary.from_texts(
      [map(word_shape, sentence) for sentence in words], min_count=MIN_COUNT
    )
    columns = [Vocabulary.from_texts(column) for column in zip(*(s.columns for s in sentences))]
    return cls(
      Vocabulary.from_texts(
        [map(normalize_word, sentence) for sentence in words], min_count=min_count
      ),
      Vocabulary.from_texts([word for sentence in words for word in sentence], min_count=MIN_COUNT),
      [shapes, *columns],
      sorted(set(tags)),
    )

  def encode(self, sentence: Sentence) -> dict[str, np.ndarray]:
    """{"tokens": [T], "characters": [T, C], "columns": [T, N]}, and "tags": [T] if it has any."""
    letters = np.zeros((len(sentence.words), MAX_WORD_LENGTH), np.int32)
    for row, word in zip(letters, sentence.words):
      if len(word) > MAX_WORD_LENGTH:
        word = word[: MAX_WORD_LENGTH // 2] + word[-(MAX_WORD_LENGTH // 2) :]
      row[: len(word)] = self.characters.encode(word)
    beside = [list(map(word_shape, sentence.words)), *sentence.columns]
    ids = {tag: i for i, tag in enumerate(self.tags)}
    encoded = {
      "tokens": self.words.encode(list(map(normalize_word, sentence.words))),
      "characters": letters,
      "columns": np.stack([own.encode(column) for own, column in zip(self.columns, beside)], -1),
    }
    tags = {"tags": np.array([ids[tag] for tag in sentence.tags], np.int32)}
    return encoded | (tags if sentence.tags else {})

  def make_batches(
    self, sentences: Sequence[Sentence], batch_size: int, seed: int | None = None
  ) -> BucketedBatches:
    """Batches of sentences, which their labels number; arguments as for Batches."""
    encoded = [self.encode(sentence) for sentence in sentences]
    parts = {name: [one[name] for one in encoded] for name in encoded[0]}
    return BucketedBatches(
      parts.pop("tokens"), range(len(sentences)), batch_size, seed=seed, extras=parts
    )

  def to_json(self) -> dict:
    """As what JSON can hold."""
    ranked = lambda vocabulary: vocabulary.words[len(SPECIALS) :]
    return {
      "words": ranked(self.words),
      "characters": ranked(self.characters),
      "columns": [ranked(column) for column in self.columns],
      "tags": self.tags,
    }

  @classmethod
  def from_json(cls, value: dict) -> "Lexicon":
    """From what `json` gave.

    Raises:
      BadInput: it is of another kind.
    """
    if not isinstance(value, dict) or not value.keys() >= {
      "words",
      "characters",
      "columns",
      "tags",
    }:
      raise InvalidInputError(
        f"a lexicon must have words, characters, columns, tags; got {str(value)[:60]}"
      )
    if not isinstance(value["columns"], list) or not value["columns"]:
      raise InvalidInputError(
        f"a lexicon must have columns, of shapes first; got {value['columns']!r:.60}"
      )
    words, characters = (
      Vocabulary.from_json(value["words"]),
      Vocabulary.from_json(value["characters"]),
    )
    columns = [*map(Vocabulary.from_json, value["columns"])]
    return cls(words, characters, columns, Vocabulary.from_json(value["tags"], ()).words)
