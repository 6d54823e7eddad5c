"""Readers are handed damaged files, which they must read or refuse, at no one's cost.

  python -m tests.fuzz --inputs=100000                      # all readers, one after the other
  python -m tests.fuzz --reader=midi --seed=1
  python -m tests.fuzz --reader=midi --replay=runs/fuzz/midi_1234

Which input is the n-th is decided by the seed and n. It must be read, or refused as BadInput with a
message. All else is a finding, and kept in --workdir: another error, more than SECONDS of computing,
more than MEMORY, the end of the process; and that the reader unpickles, runs code or a program,
opens a connection or writes outside of its folder.
"""

import argparse
import contextlib
import functools
import logging
import multiprocessing
import os
import pathlib
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator

from rnnjax.types import InvalidInputError
from tests.corruptions import corrupt_files
from tests.reader_cases import READERS, Reader, pack_file

SECONDS, MEMORY = 10, 1 << 30  # that one input may take
INPUTS_PER_PROCESS = 5_000  # inputs of one process: libraries may leak a little
ACCEPTED, REJECTED = "read", "refused"
FORBIDDEN_EVENTS = re.compile(  # what Python tells an audit hook
  r"pickle\.find_class|exec$|marshal\.load|ctypes\.dlopen|socket\.(connect|bind)|"
  r"subprocess\.Popen|os\.(system|exec|spawn|posix_spawn|fork|symlink|link|remove|rename|chmod)"
)


class FuzzViolation(BaseException):
  """An end that no `except Exception` holds back."""


@contextlib.contextmanager
def resource_limits() -> Iterator[None]:
  """Whatever is tried in here has SECONDS and MEMORY."""

  def stop(*_):
    raise FuzzViolation(f"it takes more than {SECONDS} s")

  held = resource.getrlimit(resource.RLIMIT_AS)
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  former = signal.signal(signal.SIGPROF, stop)
  resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, held[1]))
  try:
    yield
  finally:
    signal.signal(signal.SIGPROF, former)
    resource.setrlimit(resource.RLIMIT_AS, held)


@functools.cache
def _writable_folders() -> list[pathlib.Path]:
  """Where one may write, at the end of the list; while it is empty, all may be done."""
  folders: list[pathlib.Path] = []

  def hear(event, args):
    if not folders:
      return
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
      path = isinstance(args[0], str | bytes) and pathlib.Path(os.fsdecode(args[0])).resolve()
      if not path or not path.is_relative_to(folders[-1]):
        raise FuzzViolation(f"it opens {args[0]!r} to write")
    elif FORBIDDEN_EVENTS.match(event) and not _is_importing():
      raise FuzzViolation(f"it does {event} {args!r:.200}")

  sys.addaudithook(hear)
  return folders


def _is_importing() -> bool:
  frame = sys._getframe(2)
  while frame and "importlib" not in frame.f_code.co_filename:
    frame = frame.f_back
  return frame is not None


def run_reader(reader: Reader, files: dict[str, bytes], folder: pathlib.Path) -> str:
  """READ or REFUSED, of an input that is written to a folder, where alone the reader may write.

  Raises:
    whatever else comes of it.
  """
  shutil.rmtree(folder, ignore_errors=True)
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  folders = _writable_folders()
  folders.append(folder.resolve())
  signal.setitimer(signal.ITIMER_PROF, SECONDS)
  try:
    reader.read(folder)
    return ACCEPTED
  except InvalidInputError as error:
    cause = error
    while cause := cause.__cause__ or cause.__context__:
      if isinstance(cause, MemoryError):
        raise cause from None
    assert str(error), "it is refused without a message"
    return REJECTED
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
    folders.pop()


def fuzz_inputs(
  name: str, seed: int, inputs: range, folder: pathlib.Path, out: pathlib.Path, counts
):
  """Tries inputs of a reader one after the other; findings are kept in `out`.

  Args:
    counts: [n, read, refused, findings, KiB], which are kept up to date.
  """
  reader, peak = READERS[name], lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  seeds = reader.seeds()
  for whole in seeds:
    files = {path: pack_file(path, content) for path, content in whole.items()}
    assert run_reader(reader, files, folder) == ACCEPTED, f"a seed is refused: {[*files]}"
  before = peak()
  with resource_limits():
    for n in inputs:
      files, counts[0] = corrupt_files(seeds, seed, n), n
      try:
        counts[1 if run_reader(reader, files, folder) == ACCEPTED else 2] += 1
      except (Exception, FuzzViolation):
        counts[3] += 1
        save_finding(folder, out / f"{name}_{n}", traceback.format_exc())
      counts[4] = max(counts[4], peak() - before)
  counts[0] = inputs.stop


def save_finding(folder: pathlib.Path, place: pathlib.Path, why: str):
  """Keeps an input, and what it led to."""
  shutil.rmtree(place, ignore_errors=True)
  shutil.copytree(folder, place)
  (place / "why.txt").write_text(why)


def _worker_main(*given):
  """`check` in a process of its own, which is as quiet as a user's."""
  logging.disable(logging.CRITICAL)
  warnings.simplefilter("ignore")
  sys.stderr = open(os.devnull, "w")
  fuzz_inputs(*given)


def fuzz_reader(name: str, inputs: int, seed: int, out: pathlib.Path) -> dict[str, str | int]:
  """Tries so many inputs on a reader: a row of the table. A process that ends is begun anew."""
  from tqdm import tqdm

  context, begun = multiprocessing.get_context("spawn"), time.monotonic()
  counts, start = context.Array("q", 5, lock=False), 0
  base = "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None  # a disk would be slower
  with tempfile.TemporaryDirectory(dir=base) as place, tqdm(total=inputs, desc=name) as bar:
    folder = pathlib.Path(place) / "input"
    while start < inputs:
      counts[0], stop = -1, min(start + INPUTS_PER_PROCESS, inputs)
      given = name, seed, range(start, stop), folder, out, counts
      worker = context.Process(target=_worker_main, args=given, daemon=True)
      worker.start()
      why, n = _watch_worker(worker, counts, bar), counts[0]
      if why and n < 0:
        raise RuntimeError(f"{name} could not begin: {why}")
      if why:
        counts[3] += 1
        save_finding(folder, out / f"{name}_{n}", why)
      start = n + 1 if why else stop
  seconds = round(time.monotonic() - begun)
  return {
    "reader": name,
    "inputs": inputs,
    "read": counts[1],
    "refused": counts[2],
    "findings": counts[3],
    "seconds": seconds,
    "MiB": counts[4] >> 10,
  }


def _watch_worker(worker, counts, bar) -> str:
  """Waits for a process; why it ended before its work did, or ""."""
  last, still = None, 0.0
  while worker.is_alive():
    worker.join(0.2)
    now = [*counts]
    bar.update(max(now[0], bar.n) - bar.n)
    bar.set_postfix(findings=now[3], refresh=False)
    still = 0.2 + still if now[:4] == last else 0.0  # of waiting: not while both are stopped
    last = now[:4]
    if now[0] >= 0 and still > 6 * SECONDS:  # others may need the processor
      worker.kill()
      worker.join()
      return "it hangs, and could not be interrupted"
  return f"the process ended with {worker.exitcode}" if worker.exitcode else ""


def format_table(rows: list[dict]) -> str:
  """Rows in columns, beneath their names."""
  text = lambda value: f"{value:,}" if isinstance(value, int) else value
  cells = [[*rows[0]], *([text(value) for value in row.values()] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*cells)]
  return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths)) for row in cells)


def main():
  how = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
  parser = argparse.ArgumentParser(**how)
  parser.add_argument("--reader", default=",".join(READERS), help="names, with commas between")
  parser.add_argument("--inputs", type=int, default=100_000, help="of each")
  parser.add_argument("--seed", type=int, default=0, help="of the inputs")
  parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/fuzz"))
  parser.add_argument("--replay", type=pathlib.Path, help="the folder of a finding")
  given = parser.parse_args()
  names = given.reader.split(",")
  if strange := {*names} - {*READERS}:
    parser.error(f"--reader must be of {', '.join(READERS)}; got {', '.join(strange)}")
  if given.replay:
    with tempfile.TemporaryDirectory() as place:
      folder = pathlib.Path(place) / "input"
      shutil.copytree(given.replay, folder, ignore=shutil.ignore_patterns("why.txt"))
      print(READERS[names[0]].read(folder))
    return
  rows = [fuzz_reader(name, given.inputs, given.seed, given.out) for name in names]
  print(format_table(rows))
  sys.exit(any(row["findings"] for row in rows))


if __name__ == "__main__":
  main()
