"""Word vectors in GloVe's text format: a word and its D numbers on each line."""

import gzip
import pathlib

import numpy as np

from rnnjax.data.vocabulary import PAD, Vocabulary
from rnnjax.types import BadInput


def read(path: str, vocabulary: Vocabulary, seed: int = 0) -> np.ndarray:
  """The vectors of a vocabulary's words, [V, D].

  The file is streamed, and only the rows that are needed are kept. A word it lacks gets noise of
  the same mean and deviation as the rest; padding gets zeros.

  Args:
    path: a text file, or .gz.
    vocabulary: whose words are looked up.
    seed: of the noise.

  Raises:
    BadInput: no such file, a row that is not a word and numbers or of another width than the
      first, each named with its line; or a file that holds none of the words.
  """
  file = pathlib.Path(path).expanduser()
  if not file.is_file():
    raise BadInput(f"there is no file of word vectors {path!r}")
  found: dict[int, np.ndarray] = {}
  width = None
  with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
    for n, line in enumerate(lines, 1):
      word, *numbers = line.rstrip().split(" ")
      width = width or len(numbers)
      if len(numbers) != width or not width:
        raise BadInput(f"{file}:{n} has {len(numbers)} numbers where the first row has {width}")
      if word in vocabulary.ids:
        try:
          found[vocabulary.ids[word]] = np.array(numbers, np.float32)
        except ValueError:
          raise BadInput(f"{file}:{n} is not a word and {width} numbers: {line[:60]!r}") from None
  if not found:
    raise BadInput(f"{file} holds none of the {len(vocabulary)} words. Is it of this language?")
  known = np.stack(list(found.values()))
  draw = np.random.default_rng(seed)
  table = draw.normal(known.mean(), known.std(), (len(vocabulary), width)).astype(np.float32)
  table[list(found)] = known
  table[PAD] = 0
  return table
