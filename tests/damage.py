"""Damaged files: seeds of `tests.readers`, changed.

Bits flip, pieces are lost, said again or taken from elsewhere, numbers become absurd, and JSON
another value where it stood; what is packed is changed before it is packed, or after.
"""

import json
import random
import re

from tests.readers import Seed, packed

LARGEST = 1 << 17  # bytes of a file, before it is packed
NUMBERS = [0, 1, 2, 127, 128, 255, 256, 65535, 65536, 10**6]
NUMBERS += [2**n - k for n in (31, 32, 63, 64) for k in (0, 1)]
WORDS = [
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
LONG = [
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


def damaged(seeds: list[Seed], seed: int, n: int) -> dict[str, bytes]:
  """The files of the n-th input, by their paths."""
  draw = random.Random(f"{seed} {n}")
  chosen = draw.choice(seeds)
  other = lambda: _leaf(draw, draw.choice(seeds))
  files = dict(chosen)
  for name in draw.sample([*files], min(len(files), draw.choice((1, 1, 1, 2)))):
    content = files.pop(name)
    if draw.random() < 0.02 and files:
      continue  # it is missing
    if isinstance(content, dict) and draw.random() < 0.8:
      files[name] = _repacked(draw, name, content, other)
    else:
      files[name] = _changed(draw, packed(name, content), other)
  return {name: packed(name, content) for name, content in files.items()}


def _leaf(draw, content):
  while isinstance(content, dict):
    content = draw.choice([*content.values()])
  return content


def _repacked(draw, name, parts, other):
  """What is packed of parts, one of them changed, or its name."""
  parts = dict(parts)
  own = draw.choice([*parts])
  content = parts.pop(own)
  if draw.random() < 0.1:
    own = draw.choice(NAMES) + draw.choice(("", own))
  else:
    content = _changed(draw, content, other)
  try:
    return packed(name, parts | {own: content})
  except ValueError:  # what is not allowed as a name
    return packed(name, parts)


def _changed(draw, data, other):
  """Bytes with one to some changes."""
  while True:
    value = draw.random() < 0.5 and _json(draw, data)
    data = value or draw.choice(CHANGES)(draw, data, other)
    data = data[:LARGEST]
    if draw.random() < 0.6:
      return data


def _span(draw, data):
  """A start and an end, mostly near each other."""
  start = draw.randrange(len(data) + 1)
  return start, min(len(data), start + int(draw.expovariate(1 / 16)) + 1)


def _flip(draw, data, other):
  if not data:
    return data
  i = draw.randrange(len(data))
  return data[:i] + bytes([data[i] ^ 1 << draw.randrange(8)]) + data[i + 1 :]


def _byte(draw, data, other):
  i = draw.randrange(len(data) + 1)
  return data[:i] + bytes([draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))]) + data[i + 1 :]


def _cut(draw, data, other):
  return data[: draw.randrange(len(data) + 1)]


def _lose(draw, data, other):
  start, end = _span(draw, data)
  return data[:start] + data[end:]


def _again(draw, data, other):
  start, end = _span(draw, data)
  return (
    data[:end] + data[start:end] * draw.choice((1, 1, 1, 2, 2, 2, 10, 10, 100, 1000)) + data[end:]
  )


def _graft(draw, data, other):
  theirs, at = other(), draw.randrange(len(data) + 1)
  start, end = _span(draw, theirs)
  return data[:at] + theirs[start:end] + data[draw.choice((at, at + end - start)) :]


def _number(draw, data, other):
  """A number in binary becomes an absurd one."""
  size, order = draw.choice((1, 2, 4, 4, 8)), draw.choice(("little", "big"))
  value = draw.choice((*NUMBERS, draw.randrange(1 << 64))) % (1 << 8 * size)
  # Numbers mostly stand where their own size divides.
  at = draw.randrange(len(data) + 1) // size * size
  return data[:at] + value.to_bytes(size, order) + data[at + size :]


def _digits(draw, data, other):
  """A number in text becomes an absurd one."""
  found = [*re.finditer(rb"\d+", data[:10_000])]
  if not found:
    return _number(draw, data, other)
  start, end = draw.choice(found).span()
  value = draw.choice((*map(str, NUMBERS), "-1", "1e999", "9" * 5000, "0.5", "nan", "")).encode()
  return data[:start] + value + data[end:]


def _word(draw, data, other):
  at = draw.randrange(len(data) + 1)
  return (
    data[:at]
    + draw.choice(WORDS if draw.random() < 0.9 else LONG)
    + data[at + draw.choice((0, 1)) :]
  )


def _line(draw, data, other):
  """A line is lost, or stands elsewhere, too or instead."""
  lines = data.split(b"\n")
  line = lines.pop(draw.randrange(len(lines)))
  for _ in range(draw.choice((0, 1, 1, 2, 3))):
    lines.insert(draw.randrange(len(lines) + 1), line)
  return b"\n".join(lines)


CHANGES = (_flip, _byte, _cut, _lose, _again, _graft, _number, _digits, _word, _line)


def _json(draw, data):
  """A value in JSON, or in a line of it, becomes another; None where there is no JSON."""
  if data[:1] not in (b"{", b"["):
    return None
  lines = [data] if draw.random() < 0.5 else data.split(b"\n")
  i = draw.randrange(len(lines))
  try:
    value = json.loads(lines[i])
  except (ValueError, RecursionError):
    return None
  lines[i] = json.dumps(_other(draw, value)).replace('"DEEP"', DEEP).encode()
  return b"\n".join(lines)


def _other(draw, value):
  inner = value if isinstance(value, dict | list) else ()
  if not inner or draw.random() < 0.15:
    return draw.choice((*VALUES, "DEEP"))
  if isinstance(value, dict):
    key = draw.choice([*value])
    how = draw.random()
    rest = {k: v for k, v in value.items() if how > 0.15 or k != key}
    return rest if how < 0.1 else rest | {"a" if how < 0.15 else key: _other(draw, value[key])}
  i, how = draw.randrange(len(value)), draw.random()
  if how < 0.1:
    return value[:i] + value[i + 1 :]
  if how < 0.2:
    return value[: i + 1] + value[i:]
  return [*value[:i], _other(draw, value[i]), *value[i + 1 :]]
