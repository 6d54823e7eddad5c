"""Datasets of (source, target) text pairs for sequence-to-sequence models.

  embedded   generated translations, summaries or pronunciations (`synthetic_pairs`)
  files      a folder                       line-aligned files, one per language (`load_parallel`)
             .csv .jsonl .json (also .gz)   two columns of a table (`load_table`)
             cmudict.zip                    words and their pronunciations (`load_cmudict`)
             any other .zip of .txt files   news articles and their headlines (`load_articles`)

Each run of whitespace or line breaks in a text is replaced by one space. Data without predefined
splits is split 80/10/10 by the CRC-32 of the source text. Pairs with equal sources are therefore in
the same split.
"""

import logging
import pathlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from experiments.seq2seq import synthetic_pairs
from rnnjax.data.files import File, list_files, read_bytes, read_lines, use_files
from rnnjax.data.text_pairs import (
  TextPairs,
  clean_pairs,
  collapse_spaces,
  read_columns,
  split_by_hash,
)
from rnnjax.types import InvalidInputError

# {split: regular expression for the beginning of its file names}
SPLIT_PATTERNS = {"train": "train", "valid": "val|dev", "test": "test"}


class PairDataset(NamedTuple):
  """Text pairs in three splits.

  Attributes:
    name: the name of the dataset.
    train: (source, target) pairs of the training set.
    valid: pairs of the validation set.
    test: pairs of the test set.
    references: {source: all correct targets} for sources with several correct targets.
  """

  name: str
  train: TextPairs
  valid: TextPairs
  test: TextPairs
  references: Mapping[str, list[str]] = MappingProxyType({})


def load(dataset: str, data_dir: str, source: str, target: str, task: str) -> PairDataset:
  """Load text pairs.

  Args:
    dataset: one of `files.DATASETS`. "auto" reads files if `data_dir` is non-empty, else it uses
      the embedded data.
    data_dir: the path of a folder or file.
    source: the source language of a folder, or the source column of a table; unused for archives.
    target: the target language of a folder, or the target column of a table; unused for archives.
    task: the embedded dataset, one of `synthetic_pairs.TASKS`.

  Raises:
    InvalidInputError: `task` is unknown, `data_dir` does not exist, or a file is malformed (the
      message names the file and line).
  """
  if task not in synthetic_pairs.TASKS:
    raise InvalidInputError(f"the task must be one of {synthetic_pairs.TASKS}; got {task!r}")
  if use_files(dataset, data_dir, "a small generated set", "PATH reads real texts"):
    path = pathlib.Path(data_dir).expanduser()
    if not data_dir or not path.exists():
      raise InvalidInputError(
        f"--data_dir must be a folder or a file that exists; got {data_dir!r}"
      )
    if path.is_dir():
      return load_parallel(path, source, target)
    if path.suffix == ".zip":
      return load_cmudict(path) if path.name.startswith("cmudict") else load_articles(path)
    return load_table(path, source, target)
  return PairDataset("embedded", *synthetic_pairs.generate_splits(task))


def load_parallel(folder: str | pathlib.Path, source: str, target: str) -> PairDataset:
  """Read a folder of line-aligned source and target files, such as train.en and train.de.

  The names of the training files begin with "train", the names of the validation files with "val"
  or "dev", and the names of the test files with "test". Files may be compressed (.gz).
  Training pairs with an empty source or target are dropped.

  Args:
    folder: the path of the folder.
    source: the extension of the source files, such as "en".
    target: the extension of the target files, such as "de".

  Raises:
    InvalidInputError: a file is missing, unreadable or not UTF-8; the two files of a split have
      different numbers of lines; or a line of the validation or test set is empty.
  """
  files = list_files(folder)
  source_files, target_files = (_files_by_stem(files, language) for language in (source, target))
  splits = {}
  for split, pattern in SPLIT_PATTERNS.items():
    stems = [stem for stem in source_files if stem in target_files and re.match(pattern, stem)]
    if len(stems) != 1:
      raise InvalidInputError(
        f"{folder} must hold one pair of files {split}*.{source} and {split}*.{target} (also .gz; "
        f"the validation set may be named valid, val or dev); it holds "
        f"{[file.name for file in files][:16]}"
      )
    splits[split] = _read_aligned(split, source_files[stems[0]], target_files[stems[0]])
  return PairDataset(f"{pathlib.Path(folder).name} {source}-{target}", **splits)


def load_table(path: str | pathlib.Path, source: str, target: str) -> PairDataset:
  """Read two columns of a table with `read_columns`, and split the pairs 80/10/10.

  Raises:
    InvalidInputError: `read_columns` cannot read the table, or a split would be empty.
  """
  name = pathlib.Path(path).name
  return PairDataset(name, **split_by_hash(name, read_columns(path, source, target)))


def load_articles(path: str | pathlib.Path) -> PairDataset:
  """Read an archive of news articles, such as BBC News, as (article, headline) pairs.

  The first line of each .txt file is the headline; the remaining lines are the article. Invalid
  UTF-8 bytes are replaced. If several articles have the same headline, only the first is kept,
  because such articles are mostly versions of the same article.

  Raises:
    InvalidInputError: the archive is unreadable or holds no .txt file.
  """
  articles = {}  # {headline: article}
  # The pattern excludes README.TXT and hidden files such as ._name.txt.
  files = _matching_files(path, r"[^.].*\.txt")
  for file in files:
    text = read_bytes(file).decode(errors="replace")
    headline, _, article = text.strip().partition("\n")
    articles.setdefault(collapse_spaces(headline), article)
  logging.info("%s: %d articles, %d different headlines", path, len(files), len(articles))
  name = pathlib.Path(path).name
  rows = [(article, headline) for headline, article in articles.items()]
  return PairDataset(name, **split_by_hash(name, clean_pairs(name, rows)))


def load_cmudict(path: str | pathlib.Path) -> PairDataset:
  """Read NLTK's CMUdict archive as (word, phonemes) pairs.

  A line "WORD 1 W ER1 D" becomes the pair ("word", "W ER D"), without stress marks. Words with
  characters other than letters are skipped. The training set has one pair per pronunciation of a
  word. The validation and test sets have one pair per word, with the first pronunciation of the
  word. If a word has several pronunciations, `references` contains all of them.

  Raises:
    InvalidInputError: the archive is unreadable, contains no file "cmudict", or has a malformed
      line.
  """
  file = _matching_files(path, "cmudict")[0]
  pronunciations = {}
  for n, line in enumerate(read_bytes(file).decode(errors="replace").split("\n"), 1):
    word, *rest = line.split() or [""]
    if word and len(rest) < 2:
      raise InvalidInputError(f'{file}:{n} must be like "WORD 1 W ER1 D"; got {line[:60]!r}')
    if word.isalpha():
      phonemes = re.sub(r"\d", "", " ".join(rest[1:]))
      pronunciations.setdefault(word.lower(), []).append(phonemes)
  # Pronunciations that differ only in their stress marks are now equal. Keep one of them.
  distinct = {word: [*dict.fromkeys(variants)] for word, variants in pronunciations.items()}
  name = pathlib.Path(path).name
  rows = [(word, variants[0]) for word, variants in distinct.items()]
  splits = PairDataset(name, **split_by_hash(name, clean_pairs(name, rows)))
  return splits._replace(
    train=[(word, variant) for word, _ in splits.train for variant in distinct[word]],
    references={word: variants for word, variants in distinct.items() if len(variants) > 1},
  )


def _files_by_stem(files: list[File], language: str) -> dict[str, File]:
  """Return {file name without language: file} for one language, such as {"train": train.en}."""
  ending = re.compile(rf"(.*)\.{re.escape(language)}(\.gz)?")
  return {match[1]: file for file in files if (match := ending.fullmatch(file.name))}


def _read_aligned(split: str, source_file: File, target_file: File) -> TextPairs:
  """Return the (source, target) pairs of two line-aligned files."""
  sources, targets = (
    [(location, collapse_spaces(line)) for location, line in read_lines(file)]
    for file in (source_file, target_file)
  )
  if len(sources) != len(targets):
    raise InvalidInputError(
      f"{source_file} and {target_file} must have the same number of lines; they have "
      f"{len(sources)} and {len(targets)}. Was a file cut off, or a line broken in two?"
    )
  empty = [location for row in zip(sources, targets) for location, line in row if not line]
  if empty and split != "train":
    raise InvalidInputError(
      f"{empty[0]} is empty; only the training set may have empty lines, and drops their pairs"
    )
  if empty:
    logging.warning("%d empty lines, the first %s; their pairs are dropped", len(empty), empty[0])
  pairs = [(s, t) for (_, s), (_, t) in zip(sources, targets) if s and t]
  if not pairs:
    raise InvalidInputError(
      f"{source_file} and {target_file} have no line that is non-empty in both"
    )
  return pairs


def _matching_files(path: str | pathlib.Path, pattern: str) -> list[File]:
  """Return the files of an archive whose names match a regular expression."""
  files = list_files(path)
  matching = [file for file in files if re.fullmatch(pattern, file.name)]
  if not matching:
    names = [file.name for file in files][:8]
    raise InvalidInputError(
      f"{path} must hold a file whose name matches {pattern!r}; it holds {names}"
    )
  return matching
