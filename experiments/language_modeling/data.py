"""Texts for language models, loaded from one file or from a folder with three splits.

  embedded   a small text that is part of the package
  files      a folder with files whose names end in train.txt, valid.txt and test.txt (also .gz), as
             in the Penn Treebank; a folder with a single .txt file; or the path of one file
  reviews    a folder of film reviews in a format of `rnnjax.data.labeled_texts`; unlabeled reviews
             are added to the training set

A single text is split by position. The last 10 % are the test set. Five pieces of 1 % each, evenly
spaced in the remaining text, are the validation set.
"""

import pathlib
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from rnnjax.data import files, labeled_texts
from rnnjax.data.bptt_batches import BpttBatches
from rnnjax.data.files import File, list_files, read_bytes, read_text, use_files
from rnnjax.data.vocabulary import Vocabulary, tokenize_lower
from rnnjax.types import InvalidInputError

DATASETS = (*files.DATASETS, "reviews")
SPLITS = ("train", "valid", "test")
VALID_PERCENTS = range(8, 90, 18)  # validation pieces, in percent of a single text
EOS_TOKEN = "<eos>"  # marks the end of a line or a review


class Corpus(NamedTuple):
  """The token ids of a text, in three splits.

  Attributes:
    name: the name of the text.
    vocabulary: the symbols of the text (characters, bytes or words).
    train: token ids [N] of the training set.
    valid: token ids [N] of the validation set.
    test: token ids [N] of the test set.
  """

  name: str
  vocabulary: Vocabulary
  train: np.ndarray
  valid: np.ndarray
  test: np.ndarray


class CorpusBatches(NamedTuple):
  """Batches of the three splits of a corpus, for truncated backpropagation through time."""

  train: BpttBatches
  valid: BpttBatches
  test: BpttBatches


def make_batches(corpus: Corpus, batch_size: int, bptt_length: int, seed: int) -> CorpusBatches:
  """Divide each split into `batch_size` columns, and the columns into windows.

  A window has `bptt_length` steps.

  Raises:
    InvalidInputError: a split is too short for `batch_size` columns.
  """
  try:
    train = BpttBatches(corpus.train, batch_size, bptt_length, seed)
    # In evaluation, each column is preceded by the last steps of the previous column, as unscored
    # context. A single column has no previous column.
    context_len = bptt_length if batch_size > 1 else 0
    evaluation = [
      BpttBatches(ids, batch_size, bptt_length, context_len=context_len)
      for ids in (corpus.valid, corpus.test)
    ]
  except ValueError as error:
    raise InvalidInputError(
      f"{corpus.name}: {error}. A smaller --batch_size needs less text"
    ) from None
  return CorpusBatches(train, *evaluation)


def load_characters(
  dataset: str, data_dir: str, strip_lines: bool = False, byte_level: bool = False
) -> Corpus:
  """Load a text as characters.

  Args:
    dataset: "embedded", "files" or "auto". "auto" selects "files" if `data_dir` is non-empty, else
      "embedded".
    data_dir: a folder or the path of one file.
    strip_lines: whether to strip leading and trailing spaces, tabs and carriage returns of lines.
    byte_level: whether the symbols are bytes instead of characters. The text may then have any
      encoding.

  Raises:
    InvalidInputError: a file is missing, too short for three sets, or not UTF-8.
  """
  name, texts = _read_texts(dataset, data_dir, byte_level)
  if strip_lines:
    texts = ["\n".join(line.strip(" \t\r") for line in text.split("\n")) for text in texts]
  return _make_corpus(name, Vocabulary.from_texts(texts, specials=()), _split_texts(texts))


def load_words(dataset: str, data_dir: str, vocab_size: int | None = None) -> Corpus:
  """Load a text as words, with "<eos>" after each line or review.

  Files must be tokenized, because they are split only at whitespace. The embedded text and reviews
  are tokenized into lower-case words and punctuation marks. The vocabulary contains "<unk>" and the
  most frequent words of the training set. All other words become "<unk>".

  Args:
    dataset: "reviews", or a dataset of `load_characters`.
    data_dir: a folder or the path of one file.
    vocab_size: the size of the vocabulary; None includes all words.

  Raises:
    InvalidInputError: a file is missing, too short for three sets, or not UTF-8.
  """
  if dataset == "reviews":
    reviews = labeled_texts.load_folder(data_dir)
    reviews_by_split = [[text for text, _ in getattr(reviews, split)] for split in SPLITS]
    reviews_by_split[0] += labeled_texts.load_unlabeled(data_dir)
    splits = [
      [word for text in texts for word in [*tokenize_lower(text), EOS_TOKEN]]
      for texts in reviews_by_split
    ]
    vocabulary = Vocabulary.from_texts(splits[:1], vocab_size, ("<unk>",))
    return _make_corpus(reviews.name, vocabulary, splits)
  name, texts = _read_texts(dataset, data_dir)
  # In the embedded text, words that occur once become "<unk>". Otherwise "<unk>" would never occur.
  tokenize, min_count = (tokenize_lower, 2) if name == "embedded" else (str.split, 1)
  lines_by_text = [text.removesuffix("\n").split("\n") for text in texts]
  splits = _split_texts(
    [[word for line in lines for word in [*tokenize(line), EOS_TOKEN]] for lines in lines_by_text]
  )
  vocabulary = Vocabulary.from_texts(splits[:1], vocab_size, ("<unk>",), min_count)
  return _make_corpus(name, vocabulary, splits)


def _make_corpus(name: str, vocabulary: Vocabulary, texts: Iterable) -> Corpus:
  ids_by_split = [vocabulary.encode(text) for text in texts]
  for split, ids in zip(SPLITS, ids_by_split):
    if len(ids) < 2:
      raise InvalidInputError(
        f"the {split} set of {name} must have at least 2 tokens; got {len(ids)}. Is the text "
        "empty, or too short to be split into three sets?"
      )
  return Corpus(name, vocabulary, *ids_by_split)


def _read_texts(dataset: str, data_dir: str, byte_level: bool = False) -> tuple[str, list[str]]:
  """Return (name, texts); `texts` has one text, or the texts of the three splits."""
  hint = "FOLDER or --text_file=FILE reads another"
  if not use_files(dataset, data_dir, "the small text that comes with rnnjax", hint):
    return "embedded", [_read_file(pathlib.Path(__file__).with_name("hello.txt"), byte_level)]
  if not data_dir:
    raise InvalidInputError(
      "--dataset=files needs a folder by --data_dir, or a file by --text_file"
    )
  path = pathlib.Path(data_dir).expanduser()
  if path.is_file():
    return path.name, [_read_file(path, byte_level)]
  if not path.is_dir():
    raise InvalidInputError(f"--data_dir must be a file or a folder that exists; got {data_dir!r}")
  ending = r"\.txt(\.gz)?$"
  texts = [file for file in list_files(path) if re.search(ending, file.name)]
  groups = [[file for file in texts if re.search(split + ending, file.name)] for split in SPLITS]
  if any(len(group) != 1 for group in groups):
    groups = [texts]
  if len(groups[0]) != 1:
    raise InvalidInputError(
      f"{path} must hold either one text, or one file each that ends in train.txt, valid.txt and "
      f"test.txt (also .gz); it holds {[file.name for file in texts]}"
    )
  return path.name, [_read_file(file, byte_level) for (file,) in groups]


def _read_file(file: File, byte_level: bool) -> str:
  if byte_level:
    return read_bytes(file).decode("latin-1")  # maps byte n to character n
  return read_text(file, "char_lm reads any bytes with --byte_level")


def _split_texts(texts: list[Sequence]) -> list[Sequence]:
  """Return the training, validation and test text.

  Three texts are returned unchanged. A single text is cut into 100 pieces. The pieces
  VALID_PERCENTS are the validation set, the last 10 pieces are the test set, and all other pieces
  are the training set.
  """
  if len(texts) == 3:
    return texts
  (text,) = texts

  def join_pieces(numbers):
    bounds = ((len(text) * n // 100, len(text) * (n + 1) // 100) for n in numbers)
    return list(chain.from_iterable(text[start:end] for start, end in bounds))

  return [
    join_pieces(n for n in range(90) if n not in VALID_PERCENTS),
    join_pieces(VALID_PERCENTS),
    join_pieces(range(90, 100)),
  ]
