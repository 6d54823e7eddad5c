"""Fuzz test of all readers: corrupted files must be read, or raise InvalidInputError.

  python -m tests.fuzz --inputs=100000                      # all readers
  python -m tests.fuzz --reader=midi --seed=1
  python -m tests.fuzz --reader=midi --replay=runs/fuzz/midi_1234

The n-th input is a function of the seed and n. It is a finding, which is saved in --workdir, if
the reader raises any other error, gives no message, takes more than SECONDS of CPU time or MEMORY,
crashes, unpickles, runs code or a program, opens a connection, or writes outside of its folder.
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

SECONDS, MEMORY = 10, 1 << 30  # limits for one input: CPU time, and bytes
INPUTS_PER_PROCESS = 5_000  # libraries may leak a little
ACCEPTED, REJECTED = "read", "refused"
FORBIDDEN_EVENTS = re.compile(  # of Python's audit hooks
  r"pickle\.find_class|exec$|marshal\.load|ctypes\.dlopen|socket\.(connect|bind)|"
  r"subprocess\.Popen|os\.(system|exec|spawn|posix_spawn|fork|symlink|link|remove|rename|chmod)"
)


class FuzzViolation(BaseException):
  """A violation by a reader; not an Exception, so that readers cannot catch it."""


@contextlib.contextmanager
def resource_limits() -> Iterator[None]:
  """Limit memory to MEMORY, and make SIGPROF raise FuzzViolation."""

  def raise_timeout(*_):
    raise FuzzViolation(f"it takes more than {SECONDS} s")

  soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  handler = signal.signal(signal.SIGPROF, raise_timeout)
  resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard_limit))
  try:
    yield
  finally:
    signal.signal(signal.SIGPROF, handler)
    resource.setrlimit(resource.RLIMIT_AS, (soft_limit, hard_limit))


@functools.cache
def _writable_folders() -> list[pathlib.Path]:
  """Install the audit hook; return a stack whose top is the folder that a reader may write to.

  While the stack is empty, everything is allowed: an audit hook cannot be removed.
  """
  folders: list[pathlib.Path] = []

  def audit(event, args):
    if not folders:
      return
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
      path = isinstance(args[0], str | bytes) and pathlib.Path(os.fsdecode(args[0])).resolve()
      if not path or not path.is_relative_to(folders[-1]):
        raise FuzzViolation(f"it opens {args[0]!r} to write")
    elif FORBIDDEN_EVENTS.match(event) and not _is_importing():
      raise FuzzViolation(f"it does {event} {args!r:.200}")

  sys.addaudithook(audit)
  return folders


def _is_importing() -> bool:
  frame = sys._getframe(2)
  while frame and "importlib" not in frame.f_code.co_filename:
    frame = frame.f_back
  return frame is not None


def write_files(folder: pathlib.Path, files: dict[str, bytes]) -> None:
  """Write files by path to a new folder."""
  shutil.rmtree(folder, ignore_errors=True)
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def run_reader(reader: Reader, files: dict[str, bytes], folder: pathlib.Path) -> str:
  """Write files to a folder and run a reader on it; return ACCEPTED or REJECTED.

  Raises:
    Exception, FuzzViolation: any error of the reader except an InvalidInputError with a message.
  """
  write_files(folder, files)
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
    assert str(error), "it is rejected without a message"
    return REJECTED
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
    folders.pop()


def fuzz_inputs(
  name: str, seed: int, inputs: range, folder: pathlib.Path, workdir: pathlib.Path, counts
) -> None:
  """Run a reader on corrupted inputs in this process; save findings in `workdir`.

  Args:
    name: key of READERS.
    seed: seed of the inputs.
    inputs: indices of the inputs.
    folder: temporary folder of the inputs.
    workdir: folder of the findings.
    counts: [n, read, refused, findings, KiB of memory], updated in place.
  """
  reader = READERS[name]
  seeds = reader.seeds()
  for seed_files in seeds:
    files = {path: pack_file(path, content) for path, content in seed_files.items()}
    assert run_reader(reader, files, folder) == ACCEPTED, f"a valid input is rejected: {[*files]}"
  initial_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with resource_limits():
    for n in inputs:
      files, counts[0] = corrupt_files(seeds, seed, n), n
      try:
        counts[1 if run_reader(reader, files, folder) == ACCEPTED else 2] += 1
      except (Exception, FuzzViolation):
        counts[3] += 1
        save_finding(folder, workdir / f"{name}_{n}", traceback.format_exc())
      peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
      counts[4] = max(counts[4], peak_memory - initial_memory)
  counts[0] = inputs.stop


def save_finding(folder: pathlib.Path, finding: pathlib.Path, reason: str) -> None:
  """Copy an input to the folder of a finding, with the reason."""
  shutil.rmtree(finding, ignore_errors=True)
  shutil.copytree(folder, finding)
  (finding / "why.txt").write_text(reason)


def _worker_main(*args):
  """Run `fuzz_inputs` in a process of its own, without output."""
  logging.disable(logging.CRITICAL)
  warnings.simplefilter("ignore")
  sys.stderr = open(os.devnull, "w")
  fuzz_inputs(*args)


def fuzz_reader(
  name: str, num_inputs: int, seed: int, workdir: pathlib.Path
) -> dict[str, str | int]:
  """Fuzz a reader in worker processes, and restart them after a crash; return a row of results."""
  context, start_time = multiprocessing.get_context("spawn"), time.monotonic()
  counts, start = context.Array("q", 5, lock=False), 0
  base = "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None  # faster than a disk
  with tempfile.TemporaryDirectory(dir=base) as temporary:
    folder = pathlib.Path(temporary) / "input"
    while start < num_inputs:
      counts[0], stop = -1, min(start + INPUTS_PER_PROCESS, num_inputs)
      args = name, seed, range(start, stop), folder, workdir, counts
      worker = context.Process(target=_worker_main, args=args, daemon=True)
      worker.start()
      reason = _wait_for_worker(worker, counts)
      start = stop
      if reason:
        if counts[0] < 0:
          raise RuntimeError(f"{name} did not start: {reason}")
        counts[3] += 1
        save_finding(folder, workdir / f"{name}_{counts[0]}", reason)
        start = counts[0] + 1
  return {
    "reader": name,
    "inputs": num_inputs,
    "read": counts[1],
    "refused": counts[2],
    "findings": counts[3],
    "seconds": round(time.monotonic() - start_time),
    "MiB": counts[4] >> 10,
  }


def _wait_for_worker(worker, counts) -> str:
  """Wait for a process; return the reason why it stopped early, or ""."""
  while worker.is_alive():
    previous_counts = [*counts]
    worker.join(12 * SECONDS)  # wall-clock time, of which another process may take a part
    if worker.is_alive() and counts[0] >= 0 and [*counts] == previous_counts:
      worker.kill()
      worker.join()
      return "it hangs, and could not be interrupted"
  return f"the process ended with {worker.exitcode}" if worker.exitcode else ""


def format_table(rows: list[dict]) -> str:
  """Return rows in aligned columns below their names."""
  cells = [[*rows[0]]]
  for row in rows:
    cells.append([f"{value:,}" if isinstance(value, int) else value for value in row.values()])
  widths = [max(map(len, column)) for column in zip(*cells)]
  return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths)) for row in cells)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--reader", default=",".join(READERS), help="comma-separated names of readers"
  )
  parser.add_argument("--inputs", type=int, default=100_000, help="number of inputs of each reader")
  parser.add_argument("--seed", type=int, default=0, help="seed of the inputs")
  parser.add_argument(
    "--workdir", type=pathlib.Path, default=pathlib.Path("runs/fuzz"), help="folder of findings"
  )
  parser.add_argument("--replay", type=pathlib.Path, help="folder of a finding to run again")
  args = parser.parse_args()
  names = args.reader.split(",")
  if unknown := {*names} - {*READERS}:
    parser.error(f"--reader must be of {', '.join(READERS)}; got {', '.join(unknown)}")
  if args.replay:
    with tempfile.TemporaryDirectory() as temporary:
      folder = pathlib.Path(temporary) / "input"
      shutil.copytree(args.replay, folder, ignore=shutil.ignore_patterns("why.txt"))
      print(READERS[names[0]].read(folder))
    return
  rows = []
  for name in names:
    print(f"fuzzing {name}", file=sys.stderr)
    rows.append(fuzz_reader(name, args.inputs, args.seed, args.workdir))
  print(format_table(rows))
  sys.exit(any(row["findings"] for row in rows))


if __name__ == "__main__":
  main()
