"""Random corruptions of valid files, for `tests.fuzz`.

Bits flip, spans are deleted, repeated or spliced in from other files, numbers become extreme, and
JSON values are replaced. Archives are corrupted either before or after packing.
"""

import json
import random
import re

from tests.reader_cases import Seed, pack_file

MAX_FILE_BYTES = 1 << 17  # before packing
NUMBERS = [0, 1, 127, 128, 255, 65536, 10**6] + [2**n - k for n in (31, 32, 63, 64) for k in (0, 1)]
DECIMALS = [*map(str, NUMBERS), "-1", "1e999", "9" * 5000, "0.5", "nan", ""]
TOKENS = b'\\ " , # { ] null nan -1 1e999 0.5 ../../up /etc/passwd'.split()
TOKENS += [
  "\u2028é😀".encode(),
  b"\0",
  b"\n",
  b"\t",
  b" ",
  b"\r\n",
  b"\xff\xfe",
  b"\xef\xbb\xbf",
  b"\xed\xa0\x80",
]
LONG_TOKENS = [b"\xff" * 10_000, b"9" * 5000, b"[" * 100_000, b"a" * 200_000, b"\n" * 50_000]
VALUES = [None, True, -1, 0, 0.5, 1e308, 10**30, 2**31, float("nan"), "", "a", "\ud800", "<unk>"]
VALUES += ["../../up", "9" * 5000, [], {}, [[]], [None], {"a": 1}, [1] * 10_000, [["a"] * 3] * 1000]
NAMES = ["../up", "/up", "a/../../up", "", "\0", "x" * 5000, "9" * 5000]


def corrupt_files(seeds: list[Seed], seed: int, n: int) -> dict[str, bytes]:
  """Return the n-th corrupted input: file contents by path."""
  rng = random.Random(f"{seed} {n}")
  files = dict(rng.choice(seeds))
  splice_source = _random_leaf(rng, rng.choice(seeds))
  for name in rng.sample([*files], min(len(files), rng.choice((1, 1, 1, 2)))):
    content = files.pop(name)
    if rng.random() < 0.02 and files:
      continue  # a missing file
    if isinstance(content, dict) and rng.random() < 0.8:
      files[name] = _corrupt_archive(rng, name, content, splice_source)
    else:
      files[name] = _corrupt_bytes(rng, pack_file(name, content), splice_source)
  return {name: pack_file(name, content) for name, content in files.items()}


def _random_leaf(rng, content) -> bytes:
  while isinstance(content, dict):
    content = rng.choice([*content.values()])
  return content


def _corrupt_archive(rng, name, members, splice_source) -> bytes:
  """Pack an archive after corrupting the content or the name of one member."""
  members = dict(members)
  member_name = rng.choice([*members])
  content = members.pop(member_name)
  if rng.random() < 0.1:
    member_name = rng.choice(NAMES) + rng.choice(("", member_name))
  else:
    content = _corrupt_bytes(rng, content, splice_source)
  try:
    return pack_file(name, members | {member_name: content})
  except ValueError:  # the archive format does not allow this name
    return pack_file(name, members)


def _corrupt_bytes(rng, data, splice_source) -> bytes:
  """Apply one or more random corruptions."""
  while True:
    corrupted = _corrupt_json(rng, data) if rng.random() < 0.5 else None
    data = corrupted or rng.choice(CORRUPTIONS)(rng, data, splice_source)
    data = data[:MAX_FILE_BYTES]
    if rng.random() < 0.6:
      return data


def _random_span(rng, data) -> tuple[int, int]:
  start = rng.randrange(len(data) + 1)
  return start, min(len(data), start + int(rng.expovariate(1 / 16)) + 1)


def _flip_bit(rng, data, _):
  i = rng.randrange(max(len(data), 1))
  return data[:i] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[i : i + 1]) + data[i + 1 :]


def _truncate(rng, data, _):
  return data[: rng.randrange(len(data) + 1)]


def _delete_span(rng, data, _):
  start, end = _random_span(rng, data)
  return data[:start] + data[end:]


def _repeat_span(rng, data, _):
  start, end = _random_span(rng, data)
  return data[:end] + data[start:end] * rng.choice((1, 1, 2, 2, 10, 100, 1000)) + data[end:]


def _splice(rng, data, splice_source):
  """Insert a span of another file, or overwrite with it."""
  i = rng.randrange(len(data) + 1)
  start, end = _random_span(rng, splice_source)
  return data[:i] + splice_source[start:end] + data[i + rng.choice((0, end - start)) :]


def _replace_binary_number(rng, data, _):
  size, byte_order = rng.choice((1, 2, 4, 4, 8)), rng.choice(("little", "big"))
  value = rng.choice((*NUMBERS, rng.randrange(1 << 64))) % (1 << 8 * size)
  start = rng.randrange(len(data) + 1) // size * size  # numbers are mostly aligned
  return data[:start] + value.to_bytes(size, byte_order) + data[start + size :]


def _replace_decimal_number(rng, data, _):
  matches = [*re.finditer(rb"\d+", data[:10_000])]
  if not matches:
    return _replace_binary_number(rng, data, _)
  start, end = rng.choice(matches).span()
  return data[:start] + rng.choice(DECIMALS).encode() + data[end:]


def _insert_token(rng, data, _):
  i = rng.randrange(len(data) + 1)
  token = rng.choice(TOKENS if rng.random() < 0.9 else LONG_TOKENS)
  return data[:i] + token + data[i + rng.choice((0, 1)) :]


def _delete_or_repeat_line(rng, data, _):
  lines = data.split(b"\n")
  line = lines.pop(rng.randrange(len(lines)))
  for _ in range(rng.choice((0, 1, 2, 3))):
    lines.insert(rng.randrange(len(lines) + 1), line)
  return b"\n".join(lines)


CORRUPTIONS = (
  _flip_bit,
  _truncate,
  _delete_span,
  _repeat_span,
  _splice,
  _replace_binary_number,
  _replace_decimal_number,
  _insert_token,
  _delete_or_repeat_line,
)


def _corrupt_json(rng, data) -> bytes | None:
  """Corrupt one value of a JSON text or of one of its lines; None if it is not JSON."""
  lines = [data] if rng.random() < 0.5 else data.split(b"\n")
  i = rng.randrange(len(lines))
  try:
    value = json.loads(lines[i])
  except (ValueError, RecursionError):
    return None
  lines[i] = json.dumps(_corrupt_json_value(rng, value)).encode()
  return b"\n".join(lines)


def _corrupt_json_value(rng, value):
  """Replace a random inner value, or delete it, or repeat an item of a list."""
  if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
    return rng.choice(VALUES)
  value = dict(value) if isinstance(value, dict) else [*value]
  key = rng.choice([*value]) if isinstance(value, dict) else rng.randrange(len(value))
  action = rng.random()
  if action < 0.1:
    del value[key]
  elif action < 0.2 and isinstance(value, list):
    value.insert(key, value[key])
  else:
    value[key] = _corrupt_json_value(rng, value[key])
  return value
