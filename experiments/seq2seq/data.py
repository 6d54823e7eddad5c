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
from rnnjax.data.files import File, contents, given, lines, read_bytes
from rnnjax.data.tables import objects
from rnnjax.types import BadInput

PARTS = {"train": "train", "valid": "val|dev", "test": "test"}  # how the names of files begin
Rows = list[tuple[str, str]]


class Pairs(NamedTuple):
  """Sources and targets in three parts."""

  name: str
  train: Rows
  valid: Rows
  test: Rows
  references: Mapping[str, list[str]] = MappingProxyType({})  # all targets of sources with several


def load(dataset: str, data_dir: str, source: str, target: str, task: str) -> Pairs:
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
    raise BadInput(f"the task must be one of {synthetic_pairs.TASKS}; got {task!r}")
  if given(dataset, data_dir, "a small generated set", "PATH reads real texts"):
    path = pathlib.Path(data_dir).expanduser()
    if not data_dir or not path.exists():
      raise BadInput(f"--data_dir must be a folder or a file that exists; got {data_dir!r}")
    if path.is_dir():
      return parallel(path, source, target)
    if path.suffix == ".zip":
      return pronunciations(path) if path.name.startswith("cmudict") else articles(path)
    return table(path, source, target)
  return Pairs("embedded", *synthetic_pairs.splits(task))


def parallel(folder: str | pathlib.Path, source: str, target: str) -> Pairs:
  """Reads line-aligned files: train.en and train.de, val, valid or dev, and one test (also .gz).

  A pair that lacks a side is dropped from the training part, and elsewhere an error.

  Raises:
    BadInput: files that are missing, unlike in length, unreadable or not UTF-8; an empty line.
  """
  present = contents(folder)
  ours, theirs = (_stems(present, language) for language in (source, target))
  parts = {}
  for part, begins in PARTS.items():
    stems = [stem for stem in ours if stem in theirs and re.match(begins, stem)]
    if len(stems) != 1:
      raise BadInput(
        f"{folder} must hold one pair of files {part}*.{source} and {part}*.{target} (also .gz; "
        f"valid is val or dev too); it holds {[file.name for file in present][:16]}"
      )
    parts[part] = _aligned(part, ours[stems[0]], theirs[stems[0]])
  return Pairs(f"{pathlib.Path(folder).name} {source}-{target}", **parts)


def table(path: str | pathlib.Path, source: str, target: str) -> Pairs:
  """Reads two columns of a table, as `columns` does, and divides them.

  Raises:
    BadInput: as for `columns`; too few rows to be divided.
  """
  return _divided(pathlib.Path(path).name, columns(path, source, target))


def columns(path: str | pathlib.Path, source: str, target: str) -> Rows:
  """Reads two columns of a CSV file with a header, or two keys of JSON lines (also .gz).

  Rows that lack either are dropped, and so are those whose source came before.

  Raises:
    BadInput: a column that there is not, a malformed row, a file that is unreadable or not UTF-8.
  """
  path = pathlib.Path(path).expanduser()
  kind = re.search(r"\.(csv|jsonl?)(\.gz)?$", path.name)
  if not kind:
    raise BadInput(f"a table must end in .csv, .json or .jsonl (also .gz); got {path}")
  rows = [*_csv(path)] if kind[1] == "csv" else [row for _, row in objects(path)]
  known = [*dict.fromkeys(column for row in rows for column in row)]
  if not {source, target} <= {*known}:
    raise BadInput(f"{path} must have columns {source!r} and {target!r}; it has {known}")
  return _unlike(path.name, [(row.get(source), row.get(target)) for row in rows])


def articles(path: str | pathlib.Path) -> Pairs:
  """Reads the .txt files of an archive, as BBC news are: a headline, then the article, the source.

  What is not UTF-8 is replaced. Articles under one headline are mostly versions of one: the first
  stays.

  Raises:
    BadInput: the archive is unreadable, or holds no .txt file.
  """
  first = {}
  files = _named(path, r"[^.].*\.txt")  # neither README.TXT nor ._hidden
  for file in files:
    text = read_bytes(file).decode(errors="replace")
    headline, _, article = text.strip().partition("\n")
    first.setdefault(_plain(headline), article)
  logging.info("%s: of %d articles %d have a headline of their own", path, len(files), len(first))
  name, rows = pathlib.Path(path).name, [(article, line) for line, article in first.items()]
  return _divided(name, _unlike(name, rows))


def pronunciations(path: str | pathlib.Path) -> Pairs:
  """Reads CMUdict as NLTK packs it, lines "WORD 1 W ER1 D": from "word" to "W ER D".

  Stress is left out, and so are words with other characters than letters. A word with several
  pronunciations is a pair with each of them to train on, elsewhere one, with its first;
  `references` holds them all.

  Raises:
    BadInput: the archive is unreadable, holds no cmudict, or a line of it is malformed.
  """
  file, spoken = _named(path, "cmudict")[0], {}
  for n, line in enumerate(read_bytes(file).decode(errors="replace").split("\n"), 1):
    word, *rest = line.split() or [""]
    if word and len(rest) < 2:
      raise BadInput(f'{file}:{n} must be like "WORD 1 W ER1 D"; got {line[:60]!r}')
    if word.isalpha():
      spoken.setdefault(word.lower(), []).append(re.sub(r"\d", "", " ".join(rest[1:])))
  unlike = {word: [*dict.fromkeys(ways)] for word, ways in spoken.items()}
  name, rows = pathlib.Path(path).name, [(word, ways[0]) for word, ways in unlike.items()]
  pairs = _divided(name, _unlike(name, rows))
  return pairs._replace(
    train=[(word, way) for word, _ in pairs.train for way in unlike[word]],
    references={word: ways for word, ways in unlike.items() if len(ways) > 1},
  )


def _unlike(name: str, rows: Iterable[tuple[object, object]]) -> Rows:
  """Of the rows of one source the first, of those that lack nothing."""
  rows = [(_plain(source), _plain(target)) for source, target in rows]
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


def _divided(name: str, rows: Rows) -> Pairs:
  """Three parts, by the source."""
  parts = {part: [] for part in PARTS}
  for source, target in rows:
    n = zlib.crc32(source.encode()) % 10
    parts[{8: "valid", 9: "test"}.get(n, "train")].append((source, target))
  if not all(parts.values()):
    raise BadInput(f"{name} has {len(rows)} pairs, too few to be divided into three parts")
  return Pairs(name, **parts)


def _stems(files: list[File], language: str) -> dict[str, File]:
  """The files of a language, each by what its counterpart in another language begins with."""
  ending = re.compile(rf"(.*)\.{re.escape(language)}(\.gz)?")
  return {named[1]: file for file in files if (named := ending.fullmatch(file.name))}


def _aligned(part: str, *paths: File) -> Rows:
  sides = [[(place, _plain(line)) for place, line in lines(path)] for path in paths]
  (one, other), (n, m) = paths, map(len, sides)
  if n != m:
    raise BadInput(
      f"{one} and {other} must have as many lines as each other; they have {n} and {m}. "
      "Was a file cut off, or a line broken in two?"
    )
  empty = [place for row in zip(*sides) for place, line in row if not line]
  if empty and part != "train":
    raise BadInput(f"{empty[0]} is empty, as only a line of the training part may be")
  if empty:
    logging.warning(
      "%d lines are empty, the first %s; their pairs are dropped", len(empty), empty[0]
    )
  if whole := [(s, t) for (_, s), (_, t) in zip(*sides) if s and t]:
    return whole
  raise BadInput(f"{one} and {other} must have a line in common that neither leaves empty")


def _csv(path: pathlib.Path) -> Iterator[dict[str, str]]:
  (_, header), *rest = [*tables.rows(path)] or [("", [])]
  return (dict(zip(header, row)) for _, row in rest)


def _named(path: str | pathlib.Path, pattern: str) -> list[File]:
  """The files of an archive whose names match."""
  files = contents(path)
  found = [file for file in files if re.fullmatch(pattern, file.name)]
  if not found:
    names = [file.name for file in files][:8]
    raise BadInput(f"{path} must hold a file whose name matches {pattern!r}; it holds {names}")
  return found


def _plain(text: object) -> str:
  return "" if text is None else " ".join(str(text).split())
