"""What a run leaves behind: its configuration, its metrics, its place."""

import dataclasses
import importlib.metadata
import json
import math
import pathlib
import subprocess
import sys

from rnnjax.training import distributed, saved_run
from rnnjax.types import BadInput


def describe(config) -> dict:
  """A configuration as a dict, without the fields that do not decide what is learnt."""
  aside = {f.name for f in dataclasses.fields(config) if f.metadata.get("aside")} | {"out"}
  return {k: v for k, v in dataclasses.asdict(config).items() if k not in aside}


def experiment(Config: type) -> str:
  """The module of a configuration's class, by its last name."""
  name = Config.__module__
  return program() if name == "__main__" else name.split(".")[-1]


def program() -> str:
  """The last name of the module or file that runs; "notebook" where there is neither."""
  main = sys.modules["__main__"]
  if spec := getattr(main, "__spec__", None):  # run with python -m
    return spec.name.split(".")[-1]
  return pathlib.Path(getattr(main, "__file__", "notebook")).stem


def versions() -> dict[str, str]:
  """The commit and the versions of the packages that decide a result."""
  root = pathlib.Path(__file__).parents[2]
  describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
  try:
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
  except FileNotFoundError:  # there is no git
    commit = ""
  packages = ("jax", "jaxlib", "flax", "optax", "numpy")
  return {"commit": commit or "unknown"} | {
    package: importlib.metadata.version(package) for package in packages
  }


def check(out: pathlib.Path, config):
  """Raises BadInput where `out` is the place of another configuration, and shows the difference."""
  path = out / "config.json"
  if not path.exists():
    return
  theirs = saved_run.configuration(path)
  mine = json.loads(json.dumps(describe(config)))
  rows = [
    f"  {name}: {theirs.get(name)!r} there, {mine.get(name)!r} asked for"
    for name in mine | theirs
    if mine.get(name) != theirs.get(name)
  ]
  if rows:
    raise BadInput(
      "\n".join([f"{out} holds a run of another configuration:", *rows])
      + "\nGive the same flags to resume it, or another --out."
    )


def claim(out: pathlib.Path, config, beside: dict | None = None):
  """Makes `out` the place of this configuration, and of what must lie `beside` it.

  Raises:
    BadInput: it is the place of another one, or cannot be written.
  """
  check(out, config)
  for name, value in (beside or {}).items():
    path = out / f"{name}.json"
    if path.exists() and saved_run.read(path) != json.loads(json.dumps(value)):
      raise BadInput(
        f"{path} is not the {name} of this data. Has the data changed since that run began?"
      )
  if not distributed.lead():
    return
  try:
    out.mkdir(parents=True, exist_ok=True)
    for name, value in (beside or {}).items():
      _write(out / f"{name}.json", json.dumps(value) + "\n")
    if not (out / "config.json").exists():
      kept = {"experiment": experiment(type(config))}
      kept |= {"config": describe(config), "versions": versions()}
      _write(out / "config.json", json.dumps(kept, indent=2) + "\n")
  except OSError as error:
    raise BadInput(f"--out={out} cannot be written: {error}") from None


def _write(path: pathlib.Path, text: str):
  """Writes a file that is whole or not there at all."""
  half = path.with_suffix(".half")
  half.write_text(text)
  half.replace(path)


def _step(line: str) -> float:
  """The step of a line; infinite where it was cut off."""
  try:
    return json.loads(line)["step"]
  except (json.JSONDecodeError, KeyError, TypeError):
    return math.inf


class Records:
  """Metrics as JSON lines and, for TensorBoard, as events; nothing without a folder, and on hosts
  that do not write.

  Lines of steps beyond the one given, which a run wrote before it was lost, go; they come again.
  """

  def __init__(self, out: pathlib.Path | None, step: int = 0):
    self.lines = self.events = None
    if out and distributed.lead():
      from tensorboardX import SummaryWriter

      path = out / "metrics.jsonl"
      before = path.read_text().splitlines() if path.exists() else []
      _write(path, "".join(line + "\n" for line in before if _step(line) <= step))
      self.lines = open(path, "a")
      self.events = SummaryWriter(str(out), flush_secs=10, purge_step=step + 1)

  def write(self, step: int, **metrics: float):
    """Records metrics of a step."""
    if self.lines:
      self.lines.write(json.dumps({"step": step} | metrics) + "\n")
      self.lines.flush()
      for name, value in metrics.items():
        self.events.add_scalar(name, value, step)

  def close(self):
    """Flushes both."""
    if self.lines:
      self.lines.close()
      self.events.close()
