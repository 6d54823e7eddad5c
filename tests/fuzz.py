"""Readers are handed damaged files, which they must read or refuse, at no one's cost.

  python -m tests.fuzz --inputs=100000                      # all readers, one after the other
  python -m tests.fuzz --reader=midi --seed=1
  python -m tests.fuzz --reader=midi --replay=runs/fuzz/midi_1234

An input is a seed of `tests.readers`, changed: bits flip, pieces are lost, said again or taken from
elsewhere, numbers become absurd, and JSON another value where it stood; what is packed is changed
before it is packed, or after. The n-th input is a function of the seed and n alone.

It must be read, or refused as BadInput with a message. All else is a finding, written to --out:
another error, more than SECONDS, more than MEMORY, a crash; and the reader must not unpickle, run
code or a program, open a connection, nor write outside of its folder.
"""

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings

from rnnjax.types import BadInput
from tests.readers import READERS, Reader, Seed, packed

SECONDS, MEMORY = 10, 1 << 30  # of computing, and bytes, that an input may take
LARGEST = 1 << 17  # bytes of a file, before it is packed
READ, REFUSED = "read", "refused"

# -- inputs

NUMBERS = [0, 1, 2, 127, 128, 255, 256, 65535, 65536, 10**6, *(2**n - k for n in (31, 32, 63, 64) for k in (0, 1))]
WORDS = [
  b"\0", b"\n", b"\t", b'"', b",", b" ", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"nan", b"-1", b"1e999",
  b"0.5", "\u2028é😀".encode(), b"\xed\xa0\x80", b"../../up", b"/etc/passwd", b"#", b"{", b"]", b"null",
]  # fmt: skip
LONG = [b"9" * 5000, b"[" * 100_000, b"a" * 200_000, b"\n" * 50_000, b"\xff" * 10_000, b'{"a":' * 2000]
VALUES = [
  None, True, -1, 0, 0.5, 1e308, 10**30, 2**31, "", "a", "\ud800", "<unk>", "../../up", [], {}, [[]],
  [None], {"a": 1}, float("nan"), float("inf"), "9" * 5000, [1] * 10_000, [["a"] * 3] * 1000,
]  # fmt: skip
DEEP = "[" * 90 + "]" * 90


def made(seeds: list[Seed], seed: int, n: int) -> dict[str, bytes]:
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
    own = draw.choice(["../up", "/up", "a/../../up", "", "\0", "x" * 5000, f"{own}/{own}", "9" * 5000 + own])
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
  return data[:end] + data[start:end] * draw.choice((1, 1, 1, 2, 2, 2, 10, 10, 100, 1000)) + data[end:]


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
  return data[:at] + draw.choice(WORDS if draw.random() < 0.9 else LONG) + data[at + draw.choice((0, 1)) :]


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


# -- one input


class Stopped(BaseException):
  """What no `except Exception` holds back."""


FORBIDDEN = re.compile(
  r"pickle\.find_class|marshal\.loads?|subprocess\.Popen|os\.(system|exec|spawn|posix_spawn|fork)|"
  r"socket\.(connect|bind)|ctypes\.dlopen|exec$"
)
_within: pathlib.Path | None = None  # the folder that alone may be written to, while one is watched


def _heard(event, args):
  """An audit hook, which hears all that Python does to the world."""
  if _within is None:
    return
  if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
    inside = isinstance(args[0], str) and pathlib.Path(args[0]).resolve().is_relative_to(_within)
    if not inside and args[0] != os.devnull:
      raise Stopped(f"it opens {args[0]!r} to write")
  elif FORBIDDEN.match(event) and not _importing():
    raise Stopped(f"it does {event} {args!r:.200}")


def _importing():
  frame = sys._getframe(2)
  while frame:
    if "importlib" in frame.f_code.co_filename:
      return True
    frame = frame.f_back
  return False


@contextlib.contextmanager
def watched(folder: pathlib.Path):
  """What is done in here may write to the folder alone, and must end in SECONDS within MEMORY."""
  global _within
  if not watched.heard:
    sys.addaudithook(_heard)
    watched.heard = True

  def stop(*_):
    raise Stopped(f"it takes more than {SECONDS} s")

  held = resource.getrlimit(resource.RLIMIT_AS)
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  former = signal.signal(signal.SIGPROF, stop)
  resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, held[1]))
  try:
    _within = folder.resolve()
    yield
  finally:
    _within = None
    signal.signal(signal.SIGPROF, former)
    resource.setrlimit(resource.RLIMIT_AS, held)


watched.heard = False


def tried(reader: Reader, files: dict[str, bytes], folder: pathlib.Path) -> str:
  """READ or REFUSED, of an input in a folder, while it is watched.

  Raises:
    whatever else comes of it.
  """
  shutil.rmtree(folder, ignore_errors=True)
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  signal.setitimer(signal.ITIMER_PROF, SECONDS)
  try:
    reader.read(folder)
    return READ
  except BadInput as error:
    cause = error
    while cause := cause.__cause__ or cause.__context__:
      if isinstance(cause, MemoryError):
        raise cause from None
    if not str(error):
      raise AssertionError("it is refused without a message") from None
    return REFUSED
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)


# -- many inputs, in a process of their own


def _work(name, seed, start, stop, folder, counts, findings):
  """Tries inputs; counts are [n, read, refused, peak]."""
  logging.disable(logging.CRITICAL)
  warnings.simplefilter("ignore")
  reader, folder = READERS[name], pathlib.Path(folder)
  seeds = reader.seeds()
  for whole in seeds:
    files = {path: packed(path, content) for path, content in whole.items()}
    if tried(reader, files, folder) != READ:
      raise AssertionError(f"a seed of {name} is refused: {[*files]}")
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with watched(folder):
    for n in range(start, stop):
      files = made(seeds, seed, n)
      counts[0] = n
      try:
        counts[1 if tried(reader, files, folder) == READ else 2] += 1
      except (Exception, Stopped):
        findings.send((n, traceback.format_exc()))
      counts[3] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  counts[0] = stop


def fuzz(name: str, inputs: int, seed: int, out: pathlib.Path) -> dict:
  """Tries so many inputs on a reader; what it found lies in `out`."""
  from tqdm import tqdm

  context, begun, found, peak = multiprocessing.get_context("spawn"), time.monotonic(), {}, 0
  counts = context.Array("q", 4, lock=False)
  base = "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None
  with tempfile.TemporaryDirectory(dir=base) as folder, tqdm(total=inputs, desc=name, mininterval=1) as bar:
    start = 0
    while start < inputs:
      theirs, ours = context.Pipe(duplex=False)[::-1]
      given = name, seed, start, inputs, f"{folder}/input", counts, theirs
      worker = context.Process(target=_work, args=given, daemon=True)
      counts[0], counts[3] = -1, 0
      worker.start()
      theirs.close()
      why = _followed(worker, ours, counts, bar, found)
      peak = max(peak, counts[3])
      if why and counts[0] < 0:
        raise RuntimeError(f"{name}: the seeds themselves cannot be read: {why}")
      if why:
        found[counts[0]] = why
      start = counts[0] + (1 if why else 0)
    bar.update(inputs - bar.n)
  seeds = READERS[name].seeds()
  for n, why in found.items():
    place = out / f"{name}_{n}"
    for path, content in (made(seeds, seed, n) | {"why.txt": why.encode()}).items():
      (place / path).parent.mkdir(parents=True, exist_ok=True)
      (place / path).write_bytes(content)
  seconds = time.monotonic() - begun
  return {"reader": name, "inputs": inputs, "read": counts[1], "refused": counts[2],
          "findings": len(found), "seconds": round(seconds, 1), "peak MiB": peak >> 10}  # fmt: skip


def _followed(worker, findings, counts, bar, found):
  """Waits for a worker; why it ended before its work did, or None."""
  last, since = None, time.monotonic()
  while True:
    ended = not worker.is_alive()
    with contextlib.suppress(EOFError):
      while findings.poll():
        n, why = findings.recv()
        found[n] = why
    now = tuple(counts[:3])
    bar.update(max(counts[0], 0) - bar.n)
    bar.set_postfix(findings=len(found), refresh=False)
    if ended:
      worker.join()
      return None if worker.exitcode == 0 else f"the process died: exit code {worker.exitcode}"
    if now != last:
      last, since = now, time.monotonic()
    elif counts[0] >= 0 and time.monotonic() - since > 3 * SECONDS:
      worker.kill()
      worker.join()
      return f"it hangs: more than {3 * SECONDS} s, and cannot be interrupted"
    worker.join(0.2)


def table(rows: list[dict]) -> str:
  """Rows beneath their names, in columns."""
  lines = [[*rows[0]], *([f"{value:,}" if isinstance(value, int) else f"{value}" for value in row.values()]
                         for row in rows)]  # fmt: skip
  widths = [max(map(len, column)) for column in zip(*lines)]
  return "\n".join("  ".join(text.rjust(w) for text, w in zip(line, widths)) for line in lines)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--reader", default=",".join(READERS), help="names, with commas between")
  parser.add_argument("--inputs", type=int, default=100_000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/fuzz"))
  parser.add_argument("--replay", type=pathlib.Path, help="the folder of a finding")
  given = parser.parse_args()
  names = given.reader.split(",")
  if strange := {*names} - {*READERS}:
    parser.error(f"--reader must be of {', '.join(READERS)}; got {', '.join(strange)}")
  if given.replay:
    with tempfile.TemporaryDirectory() as folder:
      place = pathlib.Path(folder) / "input"
      shutil.copytree(given.replay, place)
      (place / "why.txt").unlink(missing_ok=True)
      print(READERS[names[0]].read(place))
    return
  rows = [fuzz(name, given.inputs, given.seed, given.out) for name in names]
  print(table(rows))
  sys.exit(any(row["findings"] for row in rows))


if __name__ == "__main__":
  main()
