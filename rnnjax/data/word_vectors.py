"""Word vectors in the formats of GloVe (text) and word2vec (text and binary), each also .gz."""

import functools
import io
import itertools
import logging
import pathlib
import re
import sys

import numpy as np

from rnnjax.data.files import LimitedGzipFile, max_unpacked_bytes, reraise_decode_errors
from rnnjax.data.vocabulary import PAD, Vocabulary
from rnnjax.types import InvalidInputError

DIGIT_MASKS = (r"\g<0>", "0", "#")  # what stands for a digit in a file, itself first
CASES = (str, str.lower, str.capitalize, str.upper)
MAX_LINE_BYTES, MAX_DIMENSION, MAX_WORD_BYTES = (
  1 << 20,
  1 << 16,
  1 << 12,
)  # bytes of a line, its numbers, bytes of a word


def load_embeddings(path: str, vocabulary: Vocabulary, seed: int = 0) -> np.ndarray:
  """The vectors of a vocabulary's words, [V, D].

  The content tells the format. Rows are streamed, and only those of the words are looked at and
  kept. A word that the file lacks gets the vector of another spelling, else noise of the same mean
  and deviation as the rest; padding gets zeros.

  Args:
    path: rows of a word and D numbers; before them may stand a line "rows D".
    vocabulary: whose words are looked up.
    seed: of the noise.

  Raises:
    BadInput: no such file, or one that is empty, broken off or without any of the words; a row,
      named by its line, that is not a word and finite numbers or has more or fewer than the first.
  """
  file = pathlib.Path(path).expanduser()
  if not file.is_file() or not file.stat().st_size:
    raise InvalidInputError(f"there is no file of word vectors {path!r}, or it is empty")
  spellings = {i: _spellings(word) for i, word in enumerate(vocabulary.words) if i != PAD}
  found = {}
  with reraise_decode_errors(file, "to its end", "Is the download whole?"):
    for where, word, vector in _read_rows(file, set(itertools.chain(*spellings.values()))):
      if not np.isfinite(vector).all():
        raise InvalidInputError(
          f"{where} is not a word and {len(vector)} numbers, all finite: {word!r}"
        )
      found[word] = vector
  # The preferred comes last, and stays.
  best = {i: word for i, words in spellings.items() for word in words[::-1] if word in found}
  if not best:
    raise InvalidInputError(
      f"{file} holds none of the {len(vocabulary)} words. Is it of this language?"
    )
  exact = sum(word == spellings[i][0] for i, word in best.items())
  logging.info(
    "%s holds %d of %d words: %d as they are, %d in another spelling",
    file,
    len(best),
    len(spellings),
    exact,
    len(best) - exact,
  )
  known = np.stack([found[word] for word in best.values()])
  draw, shape = np.random.default_rng(seed), (len(vocabulary), known.shape[1])
  table = draw.normal(known.mean(), known.std(), shape).astype(np.float32)
  table[list(best)] = known
  table[PAD] = 0
  return table


def _spellings(word):
  """How a file may spell a word, the preferred first: itself, in another case, digits masked."""
  words = [case(re.sub(r"\d", digit, word)) for digit in DIGIT_MASKS for case in CASES]
  return [word.encode("utf-8", "surrogatepass") for word in dict.fromkeys(words)]


def _read_rows(file, wanted_words):
  """Place, word and vector of the rows wanted. Words stay bytes: no bad UTF-8 can do harm."""
  size, raw = file.stat().st_size, file.open("rb", buffering=MAX_LINE_BYTES)
  zipped = raw.peek(2)[:2] == b"\x1f\x8b"
  with (
    raw,
    io.BufferedReader(LimitedGzipFile(file, raw, size, sys.maxsize)) if zipped else raw as stream,
  ):
    first, _, rest = stream.read(MAX_LINE_BYTES).partition(b"\n")
    stream.seek(0)
    header = re.fullmatch(rb"(\d{1,18}) (\d{1,18})\s*", first)
    rows, width = map(int, header.groups()) if header else (None, first.rstrip().count(b" "))
    if not 0 < width <= MAX_DIMENSION:
      raise InvalidInputError(
        f"{file}:1 is not a word and numbers, one blank between: {first[:60]!r}"
      )
    text = not header
    if header:
      # A number takes two bytes at least, as text.
      if not 0 < 2 * rows * width <= (max_unpacked_bytes(size, sys.maxsize) if zipped else size):
        raise InvalidInputError(
          f"{file}:1 promises {rows} rows of {width} numbers: {size} bytes "
          "cannot hold them. Is the download whole?"
        )
      stream.readline()
      second = rest.partition(b"\n")[0].rstrip().rsplit(b" ", width)[1:]
      text = len(second) == width and np.isfinite(_parse_floats(second)).any()
    yield from (_read_text if text else _read_binary)(stream, file, rows, width, wanted_words)


def _read_text(stream, file, num_rows, dim, wanted_words):
  """Rows as lines. A word may hold blanks (". . ."), but not end in a number."""
  read = iter(functools.partial(stream.readline, MAX_LINE_BYTES), b"")
  for n, line in enumerate(read, 1 if num_rows is None else 2):
    word, *numbers = line.rstrip().rsplit(b" ", dim)
    wider = b" " in word and np.isfinite(_parse_floats(word.split(b" ")[-1:])).all()
    if wider or len(numbers) < dim:
      raise InvalidInputError(
        f"{file}:{n} has {line.rstrip().count(b' ')} numbers where the first row has "
        f"{dim}. Is it broken, or are there not single blanks?"
      )
    if word in wanted_words:
      yield f"{file}:{n}", word, _parse_floats(numbers)
  if num_rows not in (None, n - 1):
    raise InvalidInputError(
      f"{file}:1 promises {num_rows} rows, but {n - 1} came. Is the download whole?"
    )


def _read_binary(stream, file, num_rows, dim, wanted_words):
  """Rows as a word, a blank and numbers of four bytes; a line break between them is optional."""
  hint = f"Is the download whole? If it is text, its line 2 is not a word and {dim} numbers."
  for n in range(1, num_rows + 1):
    letters = iter(lambda: stream.read(1) or b" ", b" ")  # the file's end is a word's end too
    word = b"".join(itertools.islice(letters, MAX_WORD_BYTES)).lstrip(b"\n")
    numbers = stream.read(4 * dim)
    if len(numbers) < 4 * dim:
      raise InvalidInputError(f"{file}:1 promises {num_rows} rows, but {n - 1} came whole. {hint}")
    if word in wanted_words:
      yield f"{file}, row {n},", word, np.frombuffer(numbers, "<f4")
  if stream.read(MAX_LINE_BYTES).strip():
    raise InvalidInputError(f"{file}:1 promises {num_rows} rows, but more bytes follow. {hint}")


def _parse_floats(fields):
  """Numbers from text; NaN for all where any is none."""
  try:
    with np.errstate(over="ignore"):
      return np.array(fields, np.float32)
  except ValueError:
    return np.full(len(fields), np.nan)
