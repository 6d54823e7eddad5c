"""Words and their ids, the most frequent first."""

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
  """A text as words and marks.

  >>> cut("It isn't BAD, is it?")
  ['It', "isn't", 'BAD', ',', 'is', 'it', '?']
  """
  return _WORD_PATTERN.findall(text)


def tokenize_lower(text: str) -> list[str]:
  """A text as lower-case words and marks; line breaks of HTML vanish.

  >>> words("It isn't BAD,<br /><br />is it?")
  ['it', "isn't", 'bad', ',', 'is', 'it', '?']
  """
  return tokenize(text.replace("<br />", " ").lower())


class Vocabulary:
  """Words by rank: the specials first, then the most frequent word.

  As `specials` say, 0 pads and 1 stands for every unknown word; without "<unk>" among them no word
  may be unknown, as for the characters of a text.

  >>> vocabulary = Vocabulary.of([["a", "b", "b"], ["b", "a", "c"]], size=4)
  >>> vocabulary.encode(["c", "b", "a"])
  array([1, 2, 3], dtype=int32)
  >>> vocabulary.decode([2, 3, 1])
  ['b', 'a', '<unk>']
  """

  def __init__(self, ranked: Iterable[str], specials: Iterable[str] = SPECIALS):
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
    """The words of texts, ranked by frequency and then alphabetically.

    Args:
      texts: of words; a string is a text of characters.
      size: at most so many ids in all.
      specials: what comes first.
      least: words that occur less often are unknown.
    """
    counts = collections.Counter(itertools.chain.from_iterable(texts))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    known = [word for word in ranked if counts[word] >= min_count and word not in specials]
    return cls(known, specials).truncate(vocab_size)

  @classmethod
  def from_json(cls, value: object, specials: Iterable[str] = SPECIALS) -> "Vocabulary":
    """That of a list of words by rank, as JSON holds them.

    Raises:
      BadInput: it is none, or a word is there twice.
    """
    words = value if isinstance(value, list) else [None]
    if not all(isinstance(word, str) for word in words):
      raise InvalidInputError(f"a vocabulary must be a list of words; got {str(value)[:60]}")
    vocabulary = cls(words, specials)
    if len(vocabulary.ids) < len(vocabulary):
      twice = collections.Counter(vocabulary.words).most_common(1)
      raise InvalidInputError(
        f"a vocabulary must have each word once; {twice[0][0]!r} is there again"
      )
    return vocabulary

  def truncate(self, vocab_size: int | None) -> "Vocabulary":
    """The same, limited to its first size ids."""
    if vocab_size is None:
      return self
    return Vocabulary(self.words[len(self.specials) : vocab_size], self.specials)

  def __len__(self):
    return len(self.words)

  def encode(self, text: Iterable[str]) -> np.ndarray:
    """Words to ids [T].

    Raises:
      BadInput: a word is unknown, and there is no "<unk>" to stand for it.
    """
    text, unknown = [*text], self.ids.get("<unk>")
    ids = [self.ids.get(word, unknown) for word in text]
    if unknown is None and None in ids:
      strange = sorted({word for word in text if word not in self.ids})
      raise InvalidInputError(
        f"{strange[:10]} do not occur in the text that was learnt, which has {len(self)} symbols"
      )
    return np.array(ids, np.int32)

  def decode(self, ids: Iterable[int]) -> list[str]:
    """Ids to words."""
    return [self.words[i] for i in ids]
