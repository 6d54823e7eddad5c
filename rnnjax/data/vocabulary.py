"""Word and character vocabularies, ranked by frequency."""

import collections
import itertools
import re
from collections.abc import Iterable

import numpy as np

from rnnjax.types import InvalidInputError

PAD, UNKNOWN = 0, 1
SPECIALS = ("<pad>", "<unk>")
_WORD_PATTERN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def tokenize(text: str) -> list[str]:
  """Split a text into words and punctuation marks.

  >>> tokenize("It isn't BAD, is it?")
  ['It', "isn't", 'BAD', ',', 'is', 'it', '?']
  """
  return _WORD_PATTERN.findall(text)


def tokenize_lower(text: str) -> list[str]:
  """Split a text into lower-case words and punctuation marks, without HTML line breaks.

  >>> tokenize_lower("It isn't BAD,<br /><br />is it?")
  ['it', "isn't", 'bad', ',', 'is', 'it', '?']
  """
  return tokenize(text.replace("<br />", " ").lower())


class Vocabulary:
  """A mapping between words and ids: the special tokens first, then words by frequency.

  With the default special tokens, id 0 is padding and id 1 represents all unknown words. Without
  "<unk>", `encode` raises an error for unknown words, which is useful for character vocabularies.

  >>> vocabulary = Vocabulary.from_texts([["a", "b", "b"], ["b", "a", "c"]], vocab_size=4)
  >>> vocabulary.encode(["c", "b", "a"])
  array([1, 2, 3], dtype=int32)
  >>> vocabulary.decode([2, 3, 1])
  ['b', 'a', '<unk>']

  Attributes:
    specials: the special tokens.
    words: the word of each id.
    ids: the id of each word.
  """

  def __init__(self, ranked: Iterable[str], specials: Iterable[str] = SPECIALS):
    """Assign the ids 0, 1, ... to `specials` and then to the words in `ranked`."""
    self.specials = tuple(specials)
    self.words = [*self.specials, *ranked]
    self.ids = {word: i for i, word in enumerate(self.words)}

  @classmethod
  def from_texts(
    cls,
    texts: Iterable[Iterable[str]],
    vocab_size: int | None = None,
    specials: Iterable[str] = SPECIALS,
    min_count: int = 1,
  ) -> "Vocabulary":
    """Return the vocabulary of texts, ranked by frequency and then alphabetically.

    Args:
      texts: sequences of words; a string is a sequence of characters.
      vocab_size: maximum number of ids, special tokens included; None for no limit.
      specials: the special tokens.
      min_count: minimum number of occurrences of a word; less frequent words are omitted.
    """
    counts = collections.Counter(itertools.chain.from_iterable(texts))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    frequent = [word for word in ranked if counts[word] >= min_count and word not in specials]
    return cls(frequent, specials).truncate(vocab_size)

  @classmethod
  def from_json(cls, value: object, specials: Iterable[str] = SPECIALS) -> "Vocabulary":
    """Create a vocabulary from a JSON list of words, most frequent first, without special tokens.

    Raises:
      InvalidInputError: the value is not a list of strings, or contains a word twice.
    """
    words = value if isinstance(value, list) else [None]
    if not all(isinstance(word, str) for word in words):
      raise InvalidInputError(f"a vocabulary must be a list of words; got {str(value)[:60]}")
    vocabulary = cls(words, specials)
    if len(vocabulary.ids) < len(vocabulary):
      ((word, _),) = collections.Counter(vocabulary.words).most_common(1)
      raise InvalidInputError(
        f"a vocabulary must have each word once; {word!r} occurs more than once"
      )
    return vocabulary

  def truncate(self, vocab_size: int | None) -> "Vocabulary":
    """Return a vocabulary with only the first `vocab_size` ids; None keeps all ids."""
    if vocab_size is None:
      return self
    return Vocabulary(self.words[len(self.specials) : vocab_size], self.specials)

  def __len__(self):
    return len(self.words)

  def encode(self, text: Iterable[str]) -> np.ndarray:
    """Return the ids [T] of words.

    Raises:
      InvalidInputError: a word is unknown, and the vocabulary has no "<unk>".
    """
    text, unknown_id = [*text], self.ids.get("<unk>")
    ids = [self.ids.get(word, unknown_id) for word in text]
    if unknown_id is None and None in ids:
      unknown_words = sorted({word for word in text if word not in self.ids})
      raise InvalidInputError(
        f"{unknown_words[:10]} do not occur in the training text, which has {len(self)} symbols"
      )
    return np.array(ids, np.int32)

  def decode(self, ids: Iterable[int]) -> list[str]:
    """Return the words of ids."""
    return [self.words[i] for i in ids]
