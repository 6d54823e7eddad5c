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
from rnnjax.data.bptt_batches import BpttBatches
from rnnjax.data.files import File, list_files, read_bytes, read_text, use_files
from rnnjax.data.vocabulary import Vocabulary, tokenize_lower
from rnnjax.types import InvalidInputError

DATASETS = (*files.DATASETS, "reviews")
SPLITS = ("train", "valid", "test")
VALID_PERCENTS = range(8, 90, 18)  # hundredths of a single text that are held out to choose with
EOS_TOKEN = "<eos>"  # of a line, or of a review


class Corpus(NamedTuple):
  """A text as ids [N], in three parts."""

  name: str
  vocabulary: Vocabulary
  train: np.ndarray
  valid: np.ndarray
  test: np.ndarray


class CorpusBatches(NamedTuple):
  """A corpus as batches."""

  train: BpttBatches
  valid: BpttBatches
  test: BpttBatches


def make_batches(corpus: Corpus, batch_size: int, bptt_length: int, seed: int) -> CorpusBatches:
  """The parts as `batch` columns each, through which a window of so many steps moves.

  Raises:
    BadInput: a part is too short for so many columns.
  """
  try:
    ahead = BpttBatches(corpus.train, batch_size, bptt_length, seed)
    warm = bptt_length if batch_size > 1 else 0  # before a single column there is nothing
    rest = [
      BpttBatches(part, batch_size, bptt_length, context_len=warm)
      for part in (corpus.valid, corpus.test)
    ]
  except ValueError as error:
    raise InvalidInputError(
      f"{corpus.name}: {error}. A smaller --batch_size needs less text"
    ) from None
  return CorpusBatches(ahead, *rest)


def load_characters(
  dataset: str, data_dir: str, strip_lines: bool = False, byte_level: bool = False
) -> Corpus:
  """A text as characters.

  Args:
    dataset: one of DATASETS but reviews; "auto" is files where data_dir is given, else embedded.
    data_dir: a folder, or one file.
    strip: blanks at both ends of each line are dropped.
    raw: each byte is a character, whatever its encoding.

  Raises:
    BadInput: files that are missing, empty or not UTF-8.
  """
  name, texts = _read_texts(dataset, data_dir, byte_level)
  if strip_lines:
    texts = ["\n".join(line.strip(" \t\r") for line in text.split("\n")) for text in texts]
  return _make_corpus(name, Vocabulary.from_texts(texts, specials=()), _split_texts(texts))


def load_words(dataset: str, data_dir: str, vocab_size: int | None = None) -> Corpus:
  """A text as words, with <eos> after each line or review.

  Files are cut at blanks: they are taken as tokenised. Other texts become lower-case words and
  marks. What is not among the `size` most frequent of the training part is "<unk>".

  Args:
    dataset, data_dir: as for `characters`, and "reviews".
    size: of the vocabulary.
  """
  if dataset == "reviews":
    reviews = imdb_data.load_files(data_dir)
    parts = [[text for text, _ in getattr(reviews, part)] for part in SPLITS]
    parts[0] += imdb_data.load_unlabeled(data_dir)
    texts = [
      [word for text in part for word in [*tokenize_lower(text), EOS_TOKEN]] for part in parts
    ]
    return _make_corpus(
      reviews.name, Vocabulary.from_texts(texts[:1], vocab_size, ("<unk>",)), texts
    )
  name, texts = _read_texts(dataset, data_dir)
  cut, least = (tokenize_lower, 2) if name == "embedded" else (str.split, 1)
  lines = [text.removesuffix("\n").split("\n") for text in texts]
  parts = _split_texts([[w for line in text for w in [*cut(line), EOS_TOKEN]] for text in lines])
  return _make_corpus(name, Vocabulary.from_texts(parts[:1], vocab_size, ("<unk>",), least), parts)


def _make_corpus(name: str, vocabulary: Vocabulary, texts: Iterable) -> Corpus:
  parts = [vocabulary.encode(text) for text in texts]
  for part, ids in zip(SPLITS, parts):
    if len(ids) < 2:
      raise InvalidInputError(
        f"the {part} part of {name} has {len(ids)} tokens, and 2 are the least. "
        "Is the text empty, or too short to be cut into three parts?"
      )
  return Corpus(name, vocabulary, *parts)


def _read_texts(dataset: str, data_dir: str, byte_level: bool = False) -> tuple[str, list[str]]:
  """The name of a text, and the text, or its three parts where they are files."""
  others = "FOLDER or --text_file=FILE reads another"
  if not use_files(dataset, data_dir, "the small text that comes with rnnjax", others):
    return "embedded", [_read_file(pathlib.Path(__file__).with_name("hello.txt"), byte_level)]
  if not data_dir:
    raise InvalidInputError(
      "--dataset=files needs a folder by --data_dir, or a file by --text_file"
    )
  path = pathlib.Path(data_dir).expanduser()
  if path.is_file():
    return path.name, [_read_file(path, byte_level)]
  if not path.is_dir():
    raise InvalidInputError(f"there is neither a file nor a folder {data_dir!r}")
  ending = r"\.txt(\.gz)?$"
  texts = [file for file in list_files(path) if re.search(ending, file.name)]
  parts = [[file for file in texts if re.search(part + ending, file.name)] for part in SPLITS]
  chosen = parts if all(len(own) == 1 for own in parts) else [texts]
  if len(chosen[0]) != 1:
    raise InvalidInputError(
      f"{path} must hold either one text, or one file each that ends in train.txt, valid.txt and "
      f"test.txt (also .gz); it holds {[file.name for file in texts]}"
    )
  return path.name, [_read_file(file, byte_level) for (file,) in chosen]


def _read_file(file: File, byte_level: bool) -> str:
  if byte_level:
    return read_bytes(file).decode("latin-1")
  return read_text(file, "char_lm reads any bytes with --byte_level")


def _split_texts(texts: list[Sequence]) -> list[Sequence]:
  """Three parts as they are; or of one text, in 100 pieces, HELD for validation, the last 10 for
  the test, the others to learn from."""
  if len(texts) == 3:
    return texts
  (text,) = texts
  piece = lambda n: text[len(text) * n // 100 : len(text) * (n + 1) // 100]
  join = lambda ns: list(chain.from_iterable(map(piece, ns)))
  return [
    join(n for n in range(90) if n not in VALID_PERCENTS),
    join(VALID_PERCENTS),
    join(range(90, 100)),
  ]
