"""Tables in text files: CSV, JSON and JSON Lines."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from rnnjax.data.files import File, read_lines, read_text
from rnnjax.types import InvalidInputError

MAX_FIELD_LENGTH = 10**6  # characters of a CSV field; the csv module's own limit is 131,072


def read_csv(file: File) -> Iterator[tuple[str, list[str]]]:
  """Yield ("file:line number", fields) for each non-empty row, including the header row.

  Raises:
    InvalidInputError: the file cannot be read (see `read_text`); a row is not valid CSV, or its
      number of fields differs from the header; a column name occurs twice.
  """
  csv.field_size_limit(MAX_FIELD_LENGTH)
  reader = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
  header = None
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
  """Yield ("file:line number", object) for each non-empty line of a JSON Lines file.

  Raises:
    InvalidInputError: the file cannot be read (see `read_text`); a line is not a JSON object.
  """
  for location, line in read_lines(file):
    if line.strip():
      value = parse_json(line, location, "a line of JSON")
      if not isinstance(value, dict):
        raise InvalidInputError(f'{location} must be like {{"key": ...}}; got {line[:60]}')
      yield location, value


def parse_json(text: str, location: object, description: str = "JSON") -> Any:
  """Return the value of a JSON text; unpaired surrogates become U+FFFD.

  Args:
    text: the JSON text.
    location: the origin of the text, for error messages.
    description: the expected format, for error messages.

  Raises:
    InvalidInputError: the text is not JSON, or is nested too deeply for the parser.
  """
  try:
    value = json.loads(text)
    return _replace_surrogates(value) if r"\ud" in text.lower() else value
  except (ValueError, RecursionError) as error:
    raise InvalidInputError(f"{location} is not {description}: {error}") from None


def _replace_surrogates(value: Any) -> Any:
  """Return a JSON value in which U+FFFD replaces unpaired surrogates (not encodable in UTF-8)."""
  text = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass")
  return json.loads(text.decode("utf-16", "replace"))
