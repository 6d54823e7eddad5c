"""Pretrained word vectors in the formats of GloVe (text) and word2vec (text and binary).

Each format may also be gzipped. The format is detected from the content of the file.
"""

import functools
import io
import itertools
import logging
import pathlib
import re
import sys
from collections.abc import Iterator

import numpy as np

from rnnjax.data.files import (
  LimitedGzipFile,
  check_declared_size,
  max_unpacked_bytes,
  reraise_decode_errors,
)
from rnnjax.data.vocabulary import PAD, Vocabulary
from rnnjax.types import InvalidInputError

DIGIT_MASKS = (r"\g<0>", "0", "#")  # how files write a digit: unchanged, as 0, or as #
CASES = (str, str.lower, str.capitalize, str.upper)
MAX_LINE_BYTES = 1 << 20
MAX_DIMENSION = 1 << 16
MAX_WORD_BYTES = 1 << 12
MIN_TEXT_BYTES = 2  # minimum size of a number as text, in bytes


def load_embeddings(path: str, vocabulary: Vocabulary, seed: int = 0) -> np.ndarray:
  """Return the embedding table [V, D] of a vocabulary, float32.

  The file is streamed, and only the rows of the vocabulary's words are kept. If a word is missing
  in the file, its vector is the vector of another spelling (other case, masked digits). If all
  spellings are missing, its vector is Gaussian noise, with the mean and standard deviation of the
  vectors of the words that are in the file. The row of PAD is zero.

  Args:
    path: file in which each row is a word and D numbers. The first line may be "NUM_ROWS D".
    vocabulary: the words to look up.
    seed: seed of the noise.

  Raises:
    InvalidInputError: the file does not exist, is empty, is cut off or contains none of the words;
      a row, which the message names, is not a word and D finite numbers.
  """
  file = pathlib.Path(path).expanduser()
  if not file.is_file() or not file.stat().st_size:
    raise InvalidInputError(f"there is no file of word vectors {path!r}, or it is empty")
  spellings = {i: _spellings(word) for i, word in enumerate(vocabulary.words) if i != PAD}
  wanted_words = set(itertools.chain(*spellings.values()))
  vectors = {}
  with reraise_decode_errors(file, "to its end", "Is the download whole?"):
    for location, word, vector in _read_rows(file, wanted_words):
      if not np.isfinite(vector).all():
        raise InvalidInputError(
          f"{location} is not a word and {len(vector)} numbers, all finite: {word!r}"
        )
      vectors[word] = vector
  # The preferred spelling is assigned last, so it overwrites the others.
  matches = {i: word for i, words in spellings.items() for word in words[::-1] if word in vectors}
  if not matches:
    raise InvalidInputError(
      f"{file} holds none of the {len(vocabulary)} words. Is it of this language?"
    )
  num_exact = sum(word == spellings[i][0] for i, word in matches.items())
  logging.info(
    "%s holds %d of %d words: %d as they are, %d in another spelling",
    file,
    len(matches),
    len(spellings),
    num_exact,
    len(matches) - num_exact,
  )
  known_vectors = np.stack([vectors[word] for word in matches.values()])
  rng, shape = np.random.default_rng(seed), (len(vocabulary), known_vectors.shape[1])
  table = rng.normal(known_vectors.mean(), known_vectors.std(), shape).astype(np.float32)
  table[list(matches)] = known_vectors
  table[PAD] = 0
  return table


def _spellings(word: str) -> list[bytes]:
  """Return the spellings under which a word is looked up, most preferred first."""
  words = [case(re.sub(r"\d", digit, word)) for digit in DIGIT_MASKS for case in CASES]
  return [word.encode("utf-8", "surrogatepass") for word in dict.fromkeys(words)]


def _read_rows(
  file: pathlib.Path, wanted_words: set[bytes]
) -> Iterator[tuple[str, bytes, np.ndarray]]:
  """Yield (location, word, vector) for each row whose word is in `wanted_words`.

  Words are compared as bytes, so words with invalid UTF-8 are accepted.
  """
  size = file.stat().st_size
  raw = file.open("rb", buffering=MAX_LINE_BYTES)
  gzipped = raw.peek(2)[:2] == b"\x1f\x8b"
  # The file is streamed, so only the compression ratio is limited, and UNPACK_LIMIT is ignored.
  stream = io.BufferedReader(LimitedGzipFile(file, raw, size, sys.maxsize)) if gzipped else raw
  with raw, stream:
    first_line, _, rest = stream.read(MAX_LINE_BYTES).partition(b"\n")
    stream.seek(0)
    header = re.fullmatch(rb"(\d{1,18}) (\d{1,18})\s*", first_line)
    if header:
      num_rows, dim = map(int, header.groups())
    else:
      num_rows, dim = None, first_line.rstrip().count(b" ")
    if not 0 < dim <= MAX_DIMENSION:
      raise InvalidInputError(
        f"{file}:1 is not a word and numbers, one blank between: {first_line[:60]!r}"
      )
    read_format = _read_text
    if header:
      if not num_rows:
        raise InvalidInputError(f"{file}:1 declares 0 rows. Is the download whole?")
      content_size = max_unpacked_bytes(size, sys.maxsize) if gzipped else size
      check_declared_size(
        f"{file}:1, {num_rows} rows of {dim} numbers,",
        MIN_TEXT_BYTES * num_rows * dim,
        content_size,
        "Is the download whole?",
      )
      stream.readline()
      second_row = rest.partition(b"\n")[0].rstrip().rsplit(b" ", dim)[1:]
      if len(second_row) < dim or not np.isfinite(_parse_floats(second_row)).any():
        read_format = _read_binary
    yield from read_format(stream, file, num_rows, dim, wanted_words)


def _read_text(stream, file, num_rows, dim, wanted_words):
  """Yield the rows of a text file. A word may contain blanks (". . .") but not end in a number."""
  lines = iter(functools.partial(stream.readline, MAX_LINE_BYTES), b"")
  for n, line in enumerate(lines, 1 if num_rows is None else 2):
    word, *numbers = line.rstrip().rsplit(b" ", dim)
    is_wider = b" " in word and np.isfinite(_parse_floats(word.split(b" ")[-1:])).all()
    if is_wider or len(numbers) < dim:
      raise InvalidInputError(
        f"{file}:{n} has {line.rstrip().count(b' ')} numbers where the first row has "
        f"{dim}. Is it damaged, or are the separators not single blanks?"
      )
    if word in wanted_words:
      yield f"{file}:{n}", word, _parse_floats(numbers)
  if num_rows not in (None, n - 1):
    raise InvalidInputError(
      f"{file}:1 declares {num_rows} rows, but there are {n - 1}. Is the download whole?"
    )


def _read_binary(stream, file, num_rows, dim, wanted_words):
  """Yield the rows of a binary file: word, space, `dim` float32 numbers, optional newline."""
  hint = f"Is the download whole? If it is text, its line 2 is not a word and {dim} numbers."
  for n in range(1, num_rows + 1):
    characters = iter(lambda: stream.read(1) or b" ", b" ")  # the end of the file ends a word too
    word = b"".join(itertools.islice(characters, MAX_WORD_BYTES)).lstrip(b"\n")
    numbers = stream.read(4 * dim)
    if len(numbers) < 4 * dim:
      raise InvalidInputError(
        f"{file}:1 declares {num_rows} rows, but only {n - 1} are complete. {hint}"
      )
    if word in wanted_words:
      yield f"{file}, row {n},", word, np.frombuffer(numbers, "<f4")
  if stream.read(MAX_LINE_BYTES).strip():
    raise InvalidInputError(f"{file}:1 declares {num_rows} rows, but more bytes follow. {hint}")


def _parse_floats(fields: list[bytes]) -> np.ndarray:
  """Return the numbers of text fields; all NaN if any field is not a number."""
  try:
    with np.errstate(over="ignore"):
      return np.array(fields, np.float32)
  except ValueError:
    return np.full(len(fields), np.nan)
