"""Damaged files: seeds of `tests.reader_cases`, changed.

Bits flip, pieces are lost, said again or taken from elsewhere, numbers become absurd, and JSON
another value where it stood; what is packed is changed before it is packed, or after.
"""

import json
import random
import re

from tests.reader_cases import Seed, pack_file

MAX_FILE_BYTES = 1 << 17  # bytes of a file, before it is packed
NUMBERS = [0, 1, 2, 127, 128, 255, 256, 65535, 65536, 10**6]
NUMBERS += [2**n - k for n in (31, 32, 63, 64) for k in (0, 1)]
TOKENS = [
  b"\0",
  b"\n",
  b"\t",
  b'"',
  b",",
  b" ",
  b"\xff\xfe",
  b"\xef\xbb\xbf",
  b"\r\n",
  b"nan",
  b"-1",
  b"1e999",
  b"0.5",
  "\u2028é😀".encode(),
  b"\xed\xa0\x80",
  b"../../up",
  b"/etc/passwd",
  b"#",
  b"{",
  b"]",
  b"null",
]
LONG_TOKENS = [
  b"\xff" * 300,
  b"9" * 5000,
  b"[" * 100_000,
  b"a" * 200_000,
  b"\n" * 50_000,
  b"\xff" * 10_000,
  b'{"a":' * 2000,
]
VALUES = [
  None,
  True,
  -1,
  0,
  0.5,
  1e308,
  10**30,
  2**31,
  "",
  "a",
  "\ud800",
  "<unk>",
  "../../up",
  [],
  {},
  [[]],
  [None],
  {"a": 1},
  float("nan"),
  float("inf"),
  "9" * 5000,
  [1] * 10_000,
  [["a"] * 3] * 1000,
]
NAMES = ["../up", "/up", "a/../../up", "", "\0", "x" * 5000, "9" * 5000]
DEEP = "[" * 90 + "]" * 90


def corrupt_files(seeds: list[Seed], seed: int, n: int) -> dict[str, bytes]:
  """The files of the n-th input, by their paths."""
  draw = random.Random(f"{seed} {n}")
  chosen = draw.choice(seeds)
  other = lambda: _random_leaf_bytes(draw, draw.choice(seeds))
  files = dict(chosen)
  for name in draw.sample([*files], min(len(files), draw.choice((1, 1, 1, 2)))):
    content = files.pop(name)
    if draw.random() < 0.02 and files:
      continue  # it is missing
    if isinstance(content, dict) and draw.random() < 0.8:
      files[name] = _corrupt_archive(draw, name, content, other)
    else:
      files[name] = _corrupt_bytes(draw, pack_file(name, content), other)
  return {name: pack_file(name, content) for name, content in files.items()}


def _random_leaf_bytes(draw, content):
  while isinstance(content, dict):
    content = draw.choice([*content.values()])
  return content


def _corrupt_archive(draw, name, parts, other):
  """What is packed of parts, one of them changed, or its name."""
  parts = dict(parts)
  own = draw.choice([*parts])
  content = parts.pop(own)
  if draw.random() < 0.1:
    own = draw.choice(NAMES) + draw.choice(("", own))
  else:
    content = _corrupt_bytes(draw, content, other)
  try:
    return pack_file(name, parts | {own: content})
  except ValueError:  # what is not allowed as a name
    return pack_file(name, parts)


def _corrupt_bytes(draw, data, other):
  """Bytes with one to some changes."""
  while True:
    value = draw.random() < 0.5 and _corrupt_json(draw, data)
    data = value or draw.choice(CORRUPTIONS)(draw, data, other)
    data = data[:MAX_FILE_BYTES]
    if draw.random() < 0.6:
      return data


def _random_span(draw, data):
  """A start and an end, mostly near each other."""
  start = draw.randrange(len(data) + 1)
  return start, min(len(data), start + int(draw.expovariate(1 / 16)) + 1)


def _flip_bit(draw, data, other):
  if not data:
    return data
  i = draw.randrange(len(data))
  return data[:i] + bytes([data[i] ^ 1 << draw.randrange(8)]) + data[i + 1 :]


def _replace_byte(draw, data, other):
  i = draw.randrange(len(data) + 1)
  return data[:i] + bytes([draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))]) + data[i + 1 :]


def _truncate(draw, data, other):
  return data[: draw.randrange(len(data) + 1)]


def _delete_span(draw, data, other):
  start, end = _random_span(draw, data)
  return data[:start] + data[end:]


def _repeat_span(draw, data, other):
  start, end = _random_span(draw, data)
  return (
    data[:end] + data[start:end] * draw.choice((1, 1, 1, 2, 2, 2, 10, 10, 100, 1000)) + data[end:]
  )


def _splice_other_file(draw, data, other):
  theirs, at = other(), draw.randrange(len(data) + 1)
  start, end = _random_span(draw, theirs)
  return data[:at] + theirs[start:end] + data[draw.choice((at, at + end - start)) :]


def _replace_binary_number(draw, data, other):
  """A number in binary becomes an absurd one."""
  size, order = draw.choice((1, 2, 4, 4, 8)), draw.choice(("little", "big"))
  value = draw.choice((*NUMBERS, draw.randrange(1 << 64))) % (1 << 8 * size)
  # Numbers mostly stand where their own size divides.
  at = draw.randrange(len(data) + 1) // size * size
  return data[:at] + value.to_bytes(size, order) + data[at + size :]


def _replace_decimal_number(draw, data, other):
  """A number in text becomes an absurd one."""
  found = [*re.finditer(rb"\d+", data[:10_000])]
  if not found:
    return _replace_binary_number(draw, data, other)
  start, end = draw.choice(found).span()
  value = draw.choice((*map(str, NUMBERS), "-1", "1e999", "9" * 5000, "0.5", "nan", "")).encode()
  return data[:start] + value + data[end:]


def _insert_token(draw, data, other):
  at = draw.randrange(len(data) + 1)
  return (
    data[:at]
    + draw.choice(TOKENS if draw.random() < 0.9 else LONG_TOKENS)
    + data[at + draw.choice((0, 1)) :]
  )


def _move_line(draw, data, other):
  """A line is lost, or stands elsewhere, too or instead."""
  lines = data.split(b"\n")
  line = lines.pop(draw.randrange(len(lines)))
  for _ in range(draw.choice((0, 1, 1, 2, 3))):
    lines.insert(draw.randrange(len(lines) + 1), line)
  return b"\n".join(lines)


CORRUPTIONS = (
  _flip_bit,
  _replace_byte,
  _truncate,
  _delete_span,
  _repeat_span,
  _splice_other_file,
  _replace_binary_number,
  _replace_decimal_number,
  _insert_token,
  _move_line,
)


def _corrupt_json(draw, data):
  """A value in JSON, or in a line of it, becomes another; None where there is no JSON."""
  if data[:1] not in (b"{", b"["):
    return None
  lines = [data] if draw.random() < 0.5 else data.split(b"\n")
  i = draw.randrange(len(lines))
  try:
    value = json.loads(lines[i])
  except (ValueError, RecursionError):
    return None
  lines[i] = json.dumps(_corrupt_json_value(draw, value)).replace('"DEEP"', DEEP).encode()
  return b"\n".join(lines)


def _corrupt_json_value(draw, value):
  inner = value if isinstance(value, dict | list) else ()
  if not inner or draw.random() < 0.15:
    return draw.choice((*VALUES, "DEEP"))
  if isinstance(value, dict):
    key = draw.choice([*value])
    how = draw.random()
    rest = {k: v for k, v in value.items() if how > 0.15 or k != key}
    return (
      rest
      if how < 0.1
      else rest | {"a" if how < 0.15 else key: _corrupt_json_value(draw, value[key])}
    )
  i, how = draw.randrange(len(value)), draw.random()
  if how < 0.1:
    return value[:i] + value[i + 1 :]
  if how < 0.2:
    return value[: i + 1] + value[i:]
  return [*value[:i], _corrupt_json_value(draw, value[i]), *value[i + 1 :]]
