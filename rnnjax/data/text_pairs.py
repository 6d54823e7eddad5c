"""Pairs (source text, target text) from two columns of a table, split by a hash of the source."""

import logging
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator

from rnnjax.data import tables
from rnnjax.types import InvalidInputError

TextPairs = list[tuple[str, str]]


def read_columns(path: str | pathlib.Path, source: str, target: str) -> TextPairs:
  """Return (source, target) pairs from a CSV file with a header or a JSON Lines file (also .gz).

  Rows without a source or target text are dropped. If several rows have the same source, only the
  first one is kept.

  Raises:
    InvalidInputError: a column is missing, a row is malformed, or the file is unreadable, is not
      UTF-8 or has an unsupported suffix.
  """
  path = pathlib.Path(path).expanduser()
  suffix = re.search(r"\.(csv|jsonl?)(\.gz)?$", path.name)
  if not suffix:
    raise InvalidInputError(f"a table must end in .csv, .json or .jsonl (also .gz); got {path}")
  rows = [*_csv_rows(path)] if suffix[1] == "csv" else [row for _, row in tables.read_jsonl(path)]
  columns = [*dict.fromkeys(column for row in rows for column in row)]
  if not {source, target} <= {*columns}:
    raise InvalidInputError(f"{path} must have columns {source!r} and {target!r}; it has {columns}")
  return clean_pairs(path.name, [(row.get(source), row.get(target)) for row in rows])


def clean_pairs(name: str, rows: Iterable[tuple[object, object]]) -> TextPairs:
  """Return (source, target) pairs with collapsed spaces; drop empty texts and repeated sources."""
  rows = [(collapse_spaces(source), collapse_spaces(target)) for source, target in rows]
  complete = [row for row in rows if all(row)]
  targets = {}
  for source, target in complete:
    targets.setdefault(source, target)
  logging.info(
    "%s: %d rows; dropped %d that lack a text and %d with a repeated source",
    name,
    len(rows),
    len(rows) - len(complete),
    len(complete) - len(targets),
  )
  return [*targets.items()]


def split_by_hash(name: str, pairs: TextPairs) -> dict[str, TextPairs]:
  """Return {"train": pairs, "valid": pairs, "test": pairs}, split 80/10/10.

  The CRC-32 of the source text determines the split of a pair.

  Raises:
    InvalidInputError: a split would be empty.
  """
  splits = {"train": [], "valid": [], "test": []}
  for source, target in pairs:
    n = zlib.crc32(source.encode()) % 10
    splits[{8: "valid", 9: "test"}.get(n, "train")].append((source, target))
  if not all(splits.values()):
    raise InvalidInputError(
      f"{name} has {len(pairs)} pairs, too few to split into training, validation and test set"
    )
  return splits


def collapse_spaces(text: object) -> str:
  """Replace each run of whitespace by one space; None becomes ""."""
  return "" if text is None else " ".join(str(text).split())


def _csv_rows(path: pathlib.Path) -> Iterator[dict[str, str]]:
  """Yield each row of a CSV file with a header as {column: text}."""
  (_, header), *rest = [*tables.read_csv(path)] or [("", [])]
  return (dict(zip(header, row)) for _, row in rest)
