"""What a run leaves behind: its configuration, its metrics, its place."""

import dataclasses
import importlib.metadata
import json
import pathlib
import subprocess

from rnnjax.training import saved
from rnnjax.types import BadInput


def describe(config) -> dict:
  """A configuration as a dict, without the fields that do not decide what is learnt."""
  aside = {f.name for f in dataclasses.fields(config) if f.metadata.get("aside")} | {"out"}
  return {k: v for k, v in dataclasses.asdict(config).items() if k not in aside}


def versions() -> dict[str, str]:
  """The commit and the versions of the packages that decide a result."""
  root = pathlib.Path(__file__).parents[2]
  git = subprocess.run(
    ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"],
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  packages = ("jax", "jaxlib", "flax", "optax", "numpy")
  return {"commit": git.stdout.strip() or "unknown"} | {
    package: importlib.metadata.version(package) for package in packages
  }


def check(out: pathlib.Path, config):
  """Raises BadInput where `out` is the place of another configuration, and shows the difference."""
  path = out / "config.json"
  if not path.exists():
    return
  theirs = saved.configuration(path)
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
    if path.exists() and saved.read(path) != json.loads(json.dumps(value)):
      raise BadInput(
        f"{path} is not the {name} of this data. Has the data changed since that run began?"
      )
  try:
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "config.json").exists():
      kept = {"config": describe(config), "versions": versions()}
      (out / "config.json").write_text(json.dumps(kept, indent=2) + "\n")
    for name, value in (beside or {}).items():
      (out / f"{name}.json").write_text(json.dumps(value) + "\n")
  except OSError as error:
    raise BadInput(f"--out={out} cannot be written: {error}") from None


class Records:
  """Metrics as JSON lines and, for TensorBoard, as events; nothing without a folder."""

  def __init__(self, out: pathlib.Path | None):
    self.lines = self.events = None
    if out:
      from tensorboardX import SummaryWriter

      self.lines = open(out / "metrics.jsonl", "a")
      self.events = SummaryWriter(str(out), flush_secs=10)

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
