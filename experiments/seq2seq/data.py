"""Pairs of texts: a source, and the target that is to be written from it.

  embedded   generated translations or summaries (`experiments.seq2seq.synthetic_pairs`)
  files      a folder                         line-aligned files, one for each language: `parallel`
             .csv .jsonl .json (also .gz)     two columns of a table: `table`
             cmudict.zip                      spellings and how they are spoken: `pronunciations`
             any other .zip, of .txt          news and their headlines: `articles`

Any run of blanks and line breaks within a text becomes one blank. Where nobody has divided the
pairs, CRC-32 of the source does, 80/10/10, so a source is always in the same part.
"""

import logging
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from experiments.seq2seq import synthetic_pairs
from rnnjax.data import tables
from rnnjax.data.files import File, list_files, read_bytes, read_lines, use_files
from rnnjax.data.tables import read_jsonl
from rnnjax.types import InvalidInputError

SPLIT_PATTERNS = {
  "train": "train",
  "valid": "val|dev",
  "test": "test",
}  # how the names of files begin
TextPairs = list[tuple[str, str]]


class PairDataset(NamedTuple):
  """Sources and targets in three parts."""

  name: str
  train: TextPairs
  valid: TextPairs
  test: TextPairs
  references: Mapping[str, list[str]] = MappingProxyType({})  # all targets of sources with several


def load(dataset: str, data_dir: str, source: str, target: str, task: str) -> PairDataset:
  """Loads pairs.

  Args:
    dataset: one of files.DATASETS; "auto" is files where data_dir is given, else embedded.
    data_dir: the folder or file.
    source, target: languages of a folder, or columns of a table; archives need neither.
    task: one of `rewriting.TASKS`, which of the embedded sets.

  Raises:
    BadInput: files that are missing or malformed, each named with its line.
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
  """Reads line-aligned files: train.en and train.de, val, valid or dev, and one test (also .gz).

  A pair that lacks a side is dropped from the training part, and elsewhere an error.

  Raises:
    BadInput: files that are missing, unlike in length, unreadable or not UTF-8; an empty line.
  """
  present = list_files(folder)
  ours, theirs = (_files_by_stem(present, language) for language in (source, target))
  parts = {}
  for part, begins in SPLIT_PATTERNS.items():
    stems = [stem for stem in ours if stem in theirs and re.match(begins, stem)]
    if len(stems) != 1:
      raise InvalidInputError(
        f"{folder} must hold one pair of files {part}*.{source} and {part}*.{target} (also .gz; "
        f"valid is val or dev too); it holds {[file.name for file in present][:16]}"
      )
    parts[part] = _read_aligned(part, ours[stems[0]], theirs[stems[0]])
  return PairDataset(f"{pathlib.Path(folder).name} {source}-{target}", **parts)


def load_table(path: str | pathlib.Path, source: str, target: str) -> PairDataset:
  """Reads two columns of a table, as `columns` does, and divides them.

  Raises:
    BadInput: as for `columns`; too few rows to be divided.
  """
  return _split_by_hash(pathlib.Path(path).name, read_columns(path, source, target))


def read_columns(path: str | pathlib.Path, source: str, target: str) -> TextPairs:
  """Reads two columns of a CSV file with a header, or two keys of JSON lines (also .gz).

  Rows that lack either are dropped, and so are those whose source came before.

  Raises:
    BadInput: a column that there is not, a malformed row, a file that is unreadable or not UTF-8.
  """
  path = pathlib.Path(path).expanduser()
  kind = re.search(r"\.(csv|jsonl?)(\.gz)?$", path.name)
  if not kind:
    raise InvalidInputError(f"a table must end in .csv, .json or .jsonl (also .gz); got {path}")
  rows = [*_csv_rows(path)] if kind[1] == "csv" else [row for _, row in read_jsonl(path)]
  known = [*dict.fromkeys(column for row in rows for column in row)]
  if not {source, target} <= {*known}:
    raise InvalidInputError(f"{path} must have columns {source!r} and {target!r}; it has {known}")
  return _clean_pairs(path.name, [(row.get(source), row.get(target)) for row in rows])


def load_articles(path: str | pathlib.Path) -> PairDataset:
  """Reads the .txt files of an archive, as BBC news are: a headline, then the article, the source.

  What is not UTF-8 is replaced. Articles under one headline are mostly versions of one: the first
  stays.

  Raises:
    BadInput: the archive is unreadable, or holds no .txt file.
  """
  first = {}
  files = _matching_files(path, r"[^.].*\.txt")  # neither README.TXT nor ._hidden
  for file in files:
    text = read_bytes(file).decode(errors="replace")
    headline, _, article = text.strip().partition("\n")
    first.setdefault(_collapse_spaces(headline), article)
  logging.info("%s: of %d articles %d have a headline of their own", path, len(files), len(first))
  name, rows = pathlib.Path(path).name, [(article, line) for line, article in first.items()]
  return _split_by_hash(name, _clean_pairs(name, rows))


def load_cmudict(path: str | pathlib.Path) -> PairDataset:
  """Reads CMUdict as NLTK packs it, lines "WORD 1 W ER1 D": from "word" to "W ER D".

  Stress is left out, and so are words with other characters than letters. A word with several
  pronunciations is a pair with each of them to train on, elsewhere one, with its first;
  `references` holds them all.

  Raises:
    BadInput: the archive is unreadable, holds no cmudict, or a line of it is malformed.
  """
  file, spoken = _matching_files(path, "cmudict")[0], {}
  for n, line in enumerate(read_bytes(file).decode(errors="replace").split("\n"), 1):
    word, *rest = line.split() or [""]
    if word and len(rest) < 2:
      raise InvalidInputError(f'{file}:{n} must be like "WORD 1 W ER1 D"; got {line[:60]!r}')
    if word.isalpha():
      spoken.setdefault(word.lower(), []).append(re.sub(r"\d", "", " ".join(rest[1:])))
  unlike = {word: [*dict.fromkeys(ways)] for word, ways in spoken.items()}
  name, rows = pathlib.Path(path).name, [(word, ways[0]) for word, ways in unlike.items()]
  pairs = _split_by_hash(name, _clean_pairs(name, rows))
  return pairs._replace(
    train=[(word, way) for word, _ in pairs.train for way in unlike[word]],
    references={word: ways for word, ways in unlike.items() if len(ways) > 1},
  )


def _clean_pairs(name: str, rows: Iterable[tuple[object, object]]) -> TextPairs:
  """Of the rows of one source the first, of those that lack nothing."""
  rows = [(_collapse_spaces(source), _collapse_spaces(target)) for source, target in rows]
  whole = [row for row in rows if all(row)]
  first = {}
  for source, target in whole:
    first.setdefault(source, target)
  logging.info(
    "%s: of %d rows %d lack a text, and %d have a source that came before",
    name,
    len(rows),
    len(rows) - len(whole),
    len(whole) - len(first),
  )
  return [*first.items()]


def _split_by_hash(name: str, rows: TextPairs) -> PairDataset:
  """Three parts, by the source."""
  parts = {part: [] for part in SPLIT_PATTERNS}
  for source, target in rows:
    n = zlib.crc32(source.encode()) % 10
    parts[{8: "valid", 9: "test"}.get(n, "train")].append((source, target))
  if not all(parts.values()):
    raise InvalidInputError(f"{name} has {len(rows)} pairs, too few to be divided into three parts")
  return PairDataset(name, **parts)


def _files_by_stem(files: list[File], language: str) -> dict[str, File]:
  """The files of a language, each by what its counterpart in another language begins with."""
  ending = re.compile(rf"(.*)\.{re.escape(language)}(\.gz)?")
  return {named[1]: file for file in files if (named := ending.fullmatch(file.name))}


def _read_aligned(split: str, *paths: File) -> TextPairs:
  sides = [[(place, _collapse_spaces(line)) for place, line in read_lines(path)] for path in paths]
  (one, other), (n, m) = paths, map(len, sides)
  if n != m:
    raise InvalidInputError(
      f"{one} and {other} must have as many lines as each other; they have {n} and {m}. "
      "Was a file cut off, or a line broken in two?"
    )
  empty = [place for row in zip(*sides) for place, line in row if not line]
  if empty and split != "train":
    raise InvalidInputError(f"{empty[0]} is empty, as only a line of the training part may be")
  if empty:
    logging.warning(
      "%d lines are empty, the first %s; their pairs are dropped", len(empty), empty[0]
    )
  if whole := [(s, t) for (_, s), (_, t) in zip(*sides) if s and t]:
    return whole
  raise InvalidInputError(f"{one} and {other} must have a line in common that neither leaves empty")


def _csv_rows(path: pathlib.Path) -> Iterator[dict[str, str]]:
  (_, header), *rest = [*tables.read_csv(path)] or [("", [])]
  return (dict(zip(header, row)) for _, row in rest)


def _matching_files(path: str | pathlib.Path, pattern: str) -> list[File]:
  """The files of an archive whose names match."""
  files = list_files(path)
  found = [file for file in files if re.fullmatch(pattern, file.name)]
  if not found:
    names = [file.name for file in files][:8]
    raise InvalidInputError(
      f"{path} must hold a file whose name matches {pattern!r}; it holds {names}"
    )
  return found


def _collapse_spaces(text: object) -> str:
  return "" if text is None else " ".join(str(text).split())
