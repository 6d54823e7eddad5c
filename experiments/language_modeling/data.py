"""Texts for language models: one file, or a folder with a training, validation and test part.

  embedded   a small text that comes with the library
  files      FOLDER with files whose names end in train.txt, valid.txt and test.txt (also .gz), as
             the Penn Treebank has them; or with a single .txt; or one file by its own name
  reviews    film reviews, as `experiments.text_classification.data` reads them, one after the
             other; those without a label, too, in training

Of a single text the last 10 % are the test part; of the rest, five pieces of 1 % each, far apart,
are the validation part.
"""

import pathlib
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from experiments.text_classification import data as imdb_data
from rnnjax.data import files
from rnnjax.data.bptt_batches import Columns
from rnnjax.data.files import File, contents, given, read_bytes, read_text
from rnnjax.data.vocabulary import Vocabulary, words
from rnnjax.types import BadInput

DATASETS = (*files.DATASETS, "reviews")
PARTS = ("train", "valid", "test")
HELD = range(8, 90, 18)  # hundredths of a single text that are held out to choose with
END = "<eos>"  # of a line, or of a review


class Corpus(NamedTuple):
  """A text as ids [N], in three parts."""

  name: str
  vocabulary: Vocabulary
  train: np.ndarray
  valid: np.ndarray
  test: np.ndarray


class Parts(NamedTuple):
  """A corpus as batches."""

  train: Columns
  valid: Columns
  test: Columns


def columns(corpus: Corpus, batch: int, window: int, seed: int) -> Parts:
  """The parts as `batch` columns each, through which a window of so many steps moves.

  Raises:
    BadInput: a part is too short for so many columns.
  """
  try:
    ahead = Columns(corpus.train, batch, window, seed)
    warm = window if batch > 1 else 0  # before a single column there is nothing
    rest = [Columns(part, batch, window, warm=warm) for part in (corpus.valid, corpus.test)]
  except ValueError as error:
    raise BadInput(f"{corpus.name}: {error}. A smaller --batch needs less text") from None
  return Parts(ahead, *rest)


def characters(dataset: str, data_dir: str, strip: bool = False, raw: bool = False) -> Corpus:
  """A text as characters.

  Args:
    dataset: one of DATASETS but reviews; "auto" is files where data_dir is given, else embedded.
    data_dir: a folder, or one file.
    strip: blanks at both ends of each line are dropped.
    raw: each byte is a character, whatever its encoding.

  Raises:
    BadInput: files that are missing, empty or not UTF-8.
  """
  name, texts = _texts(dataset, data_dir, raw)
  if strip:
    texts = ["\n".join(line.strip(" \t\r") for line in text.split("\n")) for text in texts]
  return _corpus(name, Vocabulary.of(texts, specials=()), _parts(texts))


def tokens(dataset: str, data_dir: str, size: int | None = None) -> Corpus:
  """A text as words, with <eos> after each line or review.

  Files are cut at blanks: they are taken as tokenised. Other texts become lower-case words and
  marks. What is not among the `size` most frequent of the training part is "<unk>".

  Args:
    dataset, data_dir: as for `characters`, and "reviews".
    size: of the vocabulary.
  """
  if dataset == "reviews":
    reviews = imdb_data.files(data_dir)
    parts = [[text for text, _ in getattr(reviews, part)] for part in PARTS]
    parts[0] += imdb_data.unlabelled(data_dir)
    texts = [[word for text in part for word in [*words(text), END]] for part in parts]
    return _corpus(reviews.name, Vocabulary.of(texts[:1], size, ("<unk>",)), texts)
  name, texts = _texts(dataset, data_dir)
  cut, least = (words, 2) if name == "embedded" else (str.split, 1)
  lines = [text.removesuffix("\n").split("\n") for text in texts]
  parts = _parts([[w for line in text for w in [*cut(line), END]] for text in lines])
  return _corpus(name, Vocabulary.of(parts[:1], size, ("<unk>",), least), parts)


def _corpus(name: str, vocabulary: Vocabulary, texts: Iterable) -> Corpus:
  parts = [vocabulary.encode(text) for text in texts]
  for part, ids in zip(PARTS, parts):
    if len(ids) < 2:
      raise BadInput(
        f"the {part} part of {name} has {len(ids)} tokens, and 2 are the least. "
        "Is the text empty, or too short to be cut into three parts?"
      )
  return Corpus(name, vocabulary, *parts)


def _texts(dataset: str, data_dir: str, raw: bool = False) -> tuple[str, list[str]]:
  """The name of a text, and the text, or its three parts where they are files."""
  others = "FOLDER or --text=FILE reads another"
  if not given(dataset, data_dir, "the small text that comes with rnnjax", others):
    return "embedded", [_read(pathlib.Path(__file__).with_name("hello.txt"), raw)]
  if not data_dir:
    raise BadInput("--dataset=files needs a folder by --data_dir, or a file by --text")
  path = pathlib.Path(data_dir).expanduser()
  if path.is_file():
    return path.name, [_read(path, raw)]
  if not path.is_dir():
    raise BadInput(f"there is neither a file nor a folder {data_dir!r}")
  ending = r"\.txt(\.gz)?$"
  texts = [file for file in contents(path) if re.search(ending, file.name)]
  parts = [[file for file in texts if re.search(part + ending, file.name)] for part in PARTS]
  chosen = parts if all(len(own) == 1 for own in parts) else [texts]
  if len(chosen[0]) != 1:
    raise BadInput(
      f"{path} must hold either one text, or one file each that ends in train.txt, valid.txt and "
      f"test.txt (also .gz); it holds {[file.name for file in texts]}"
    )
  return path.name, [_read(file, raw) for (file,) in chosen]


def _read(file: File, raw: bool) -> str:
  if raw:
    return read_bytes(file).decode("latin-1")
  return read_text(file, "char_lm reads any bytes with --bytes")


def _parts(texts: list[Sequence]) -> list[Sequence]:
  """Three parts as they are; or of one text, in 100 pieces, HELD for validation, the last 10 for
  the test, the others to learn from."""
  if len(texts) == 3:
    return texts
  (text,) = texts
  piece = lambda n: text[len(text) * n // 100 : len(text) * (n + 1) // 100]
  join = lambda ns: list(chain.from_iterable(map(piece, ns)))
  return [join(n for n in range(90) if n not in HELD), join(HELD), join(range(90, 100))]
