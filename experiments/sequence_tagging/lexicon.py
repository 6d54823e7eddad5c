"""The vocabularies that map words, characters, extra columns and tags to ids."""

import logging
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.sequence_tagging.data import Sentence
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.data.vocabulary import SPECIALS, Vocabulary
from rnnjax.types import InvalidInputError

MAX_WORD_LENGTH = 20  # characters; a longer word keeps its first 10 and last 10 characters
MIN_COUNT = 3  # rarer word shapes and characters are unknown
_DIGIT = re.compile(r"\d")


def normalize_word(word: str) -> str:
  """Return a word in lower case, with each digit replaced by 0.

  >>> normalize_word("MI5-1996")
  'mi0-0000'
  """
  return _DIGIT.sub("0", word.lower())


def word_shape(word: str) -> str:
  """Return the shape of a word (Collobert et al. 2011).

  A run of upper-case letters becomes "X", a run of lower-case letters becomes "x", and a run of
  digits becomes "0". A run of any other character becomes one such character.

  >>> [word_shape(word) for word in ["Teddy", "U.S.", "1996-97", "eBay", "bears"]]
  ['Xx', 'X.X.', '0-0', 'xXx', 'x']
  """
  symbols = [_character_class(character) for character in word]
  return "".join(symbol for symbol, previous in zip(symbols, ["", *symbols]) if symbol != previous)


def _character_class(character: str) -> str:
  if character.isupper():
    return "X"
  if character.isalpha():
    return "x"
  return "0" if character.isdigit() else character


class Lexicon(NamedTuple):
  """The vocabularies of a tagger.

  Attributes:
    words: the vocabulary of normalized words.
    characters: the vocabulary of characters; case is kept.
    columns: the vocabulary of word shapes, followed by one vocabulary per extra column.
    tags: all tags, sorted by id.
  """

  words: Vocabulary
  characters: Vocabulary
  columns: list[Vocabulary]
  tags: list[str]

  @classmethod
  def from_sentences(
    cls, sentences: Sequence[Sentence], tags: Iterable[str], min_count: int = 1
  ) -> "Lexicon":
    """Build the lexicon of a training set.

    Args:
      sentences: the training sentences.
      tags: all tags. Tags that are absent from the training set are logged as a warning.
      min_count: the minimum number of occurrences of a word; rarer words are unknown.
    """
    unseen = set(tags) - {tag for sentence in sentences for tag in sentence.tags}
    if unseen:
      logging.warning(
        "the training set has no %s: these tags will never be predicted", sorted(unseen)
      )
    texts = [sentence.words for sentence in sentences]
    words = [map(normalize_word, text) for text in texts]
    shapes = [map(word_shape, text) for text in texts]
    characters = [word for text in texts for word in text]
    extra_columns = zip(*(sentence.columns for sentence in sentences))
    return cls(
      Vocabulary.from_texts(words, min_count=min_count),
      Vocabulary.from_texts(characters, min_count=MIN_COUNT),
      [
        Vocabulary.from_texts(shapes, min_count=MIN_COUNT),
        *(Vocabulary.from_texts(column) for column in extra_columns),
      ],
      sorted(set(tags)),
    )

  def encode(self, sentence: Sentence) -> dict[str, np.ndarray]:
    """Convert the words, characters, columns and tags of a sentence to ids.

    Returns:
      {"tokens": [T], "characters": [T, MAX_WORD_LENGTH], "columns": [T, N]}, and "tags": [T] if
      the sentence has tags. N is the number of columns, including word shapes.
    """
    characters = np.zeros((len(sentence.words), MAX_WORD_LENGTH), np.int32)
    for row, word in zip(characters, sentence.words):
      if len(word) > MAX_WORD_LENGTH:
        word = word[: MAX_WORD_LENGTH // 2] + word[-(MAX_WORD_LENGTH // 2) :]
      row[: len(word)] = self.characters.encode(word)
    columns = [list(map(word_shape, sentence.words)), *sentence.columns]
    column_ids = [vocabulary.encode(column) for vocabulary, column in zip(self.columns, columns)]
    encoded = {
      "tokens": self.words.encode(list(map(normalize_word, sentence.words))),
      "characters": characters,
      "columns": np.stack(column_ids, -1),
    }
    if sentence.tags:
      tag_ids = {tag: i for i, tag in enumerate(self.tags)}
      encoded["tags"] = np.array([tag_ids[tag] for tag in sentence.tags], np.int32)
    return encoded

  def make_batches(
    self, sentences: Sequence[Sentence], batch_size: int, seed: int | None = None
  ) -> BucketedBatches:
    """Return batches of sentences; "labels" holds the index in `sentences` of each row.

    Args:
      sentences: the sentences.
      batch_size: the number of sentences in a batch.
      seed: random seed of the shuffle; None sorts by length, for evaluation.
    """
    encoded = [self.encode(sentence) for sentence in sentences]
    arrays = {name: [ids[name] for ids in encoded] for name in encoded[0]}
    return BucketedBatches(
      arrays.pop("tokens"), range(len(sentences)), batch_size, seed=seed, extras=arrays
    )

  def to_json(self) -> dict:
    """Return the lexicon as a JSON-serializable dict."""

    def words_of(vocabulary):
      return vocabulary.words[len(SPECIALS) :]

    return {
      "words": words_of(self.words),
      "characters": words_of(self.characters),
      "columns": [words_of(column) for column in self.columns],
      "tags": self.tags,
    }

  @classmethod
  def from_json(cls, value: dict) -> "Lexicon":
    """Build the lexicon from the result of `to_json`.

    Raises:
      InvalidInputError: the structure of `value` differs from the result of `to_json`.
    """
    keys = {"words", "characters", "columns", "tags"}
    if not isinstance(value, dict) or not value.keys() >= keys:
      raise InvalidInputError(
        f"a lexicon must have words, characters, columns, tags; got {str(value)[:60]}"
      )
    if not isinstance(value["columns"], list) or not value["columns"]:
      raise InvalidInputError(
        "the columns of a lexicon must be a list of vocabularies, that of the word shapes first; "
        f"got {value['columns']!r:.60}"
      )
    return cls(
      Vocabulary.from_json(value["words"]),
      Vocabulary.from_json(value["characters"]),
      [*map(Vocabulary.from_json, value["columns"])],
      Vocabulary.from_json(value["tags"], ()).words,
    )
