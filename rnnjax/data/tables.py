"""Tables as text: CSV, JSON, and lines of JSON."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from rnnjax.data.files import File, read_lines, read_text
from rnnjax.types import InvalidInputError

MAX_FIELD_LENGTH = 10**6  # characters of a field of CSV
MAX_NESTING = 100  # lists and objects of JSON within one another


def read_csv(file: File) -> Iterator[tuple[str, list[str]]]:
  """("file:line", fields) of each row of CSV that is not empty; the first is the header.

  Raises:
    BadInput: as for `read_text`; a row is not CSV, or has more or fewer fields than the first, or
      the first has one twice.
  """
  csv.field_size_limit(MAX_FIELD_LENGTH)
  reader, header = csv.reader(io.StringIO(read_text(file), newline=""), strict=True), None
  try:
    for row in filter(None, reader):
      if header is None:
        header = row
        if len({*header}) < len(header):
          raise InvalidInputError(f"{file} must have each column once; its header is {header}")
      if len(row) != len(header):
        raise csv.Error(f"{len(row)} fields, and the header has {len(header)}")
      yield f"{file}:{reader.line_num}", row
  except csv.Error as error:
    raise InvalidInputError(
      f"{file}:{reader.line_num} is not CSV: {error}. Is a quotation mark missing, or not doubled?"
    ) from None


def read_jsonl(file: File) -> Iterator[tuple[str, dict]]:
  """("file:line", object) of each line of JSON that is not empty.

  Raises:
    BadInput: as for `read_text`; a line is not a JSON object.
  """
  for place, line in read_lines(file):
    if line.strip():
      made = parse_json(line, place, "a line of JSON")
      if not isinstance(made, dict):
        raise InvalidInputError(f'{place} must be like {{"key": ...}}; got {line[:60]}')
      yield place, made


def parse_json(text: str, location: object, description: str = "JSON") -> Any:
  """What a text of JSON holds.

  Raises:
    BadInput: it is none, or holds more than DEEPEST lists and objects within one another.
  """
  try:
    made = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise InvalidInputError(f"{location} is not {description}: {error}") from None
  level = [made]
  for _ in range(MAX_NESTING):
    level = [inner for outer in level for inner in _children(outer)]
    if not level:
      return _replace_surrogates(made) if r"\ud" in text.lower() else made
  raise InvalidInputError(
    f"{location} is not {description} as one writes it: {MAX_NESTING} lists within one another"
  )


def _replace_surrogates(value):
  """The same, with U+FFFD for each half of a pair of surrogates, which is no character."""
  text = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass")
  return json.loads(text.decode("utf-16", "replace"))


def _children(value):
  return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
