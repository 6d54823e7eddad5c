"""Words and their ids, the most frequent first."""

import collections
import itertools
import re
from collections.abc import Iterable

import numpy as np

PAD, UNKNOWN = 0, 1
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def words(text: str) -> list[str]:
  """A text as lower-case words and marks; line breaks of HTML vanish.

  >>> words("It isn't BAD,<br /><br />is it?")
  ['it', "isn't", 'bad', ',', 'is', 'it', '?']
  """
  return _WORD.findall(text.replace("<br />", " ").lower())


class Vocabulary:
  """Words by rank: 0 pads, 1 stands for every unknown word, then the most frequent word first.

  >>> vocabulary = Vocabulary.of([["a", "b", "b"], ["b", "a", "c"]], size=4)
  >>> vocabulary.encode(["c", "b", "a"])
  array([1, 2, 3], dtype=int32)
  >>> vocabulary.decode([2, 3, 1])
  ['b', 'a', '<unk>']
  """

  def __init__(self, ranked: Iterable[str]):
    self.words = ["<pad>", "<unk>", *ranked]
    self.ids = {word: i for i, word in enumerate(self.words)}

  @classmethod
  def of(cls, texts: Iterable[Iterable[str]], size: int | None = None) -> "Vocabulary":
    """The words of texts, ranked by frequency and then alphabetically; at most size ids in all."""
    counts = collections.Counter(itertools.chain.from_iterable(texts))
    return cls(sorted(counts, key=lambda word: (-counts[word], word))).cut(size)

  def cut(self, size: int | None) -> "Vocabulary":
    """The same, limited to its first size ids."""
    return self if size is None else Vocabulary(self.words[2:size])

  def __len__(self):
    return len(self.words)

  def encode(self, text: Iterable[str]) -> np.ndarray:
    """Words to ids [T]."""
    return np.array([self.ids.get(word, UNKNOWN) for word in text], np.int32)

  def decode(self, ids: Iterable[int]) -> list[str]:
    """Ids to words."""
    return [self.words[i] for i in ids]
