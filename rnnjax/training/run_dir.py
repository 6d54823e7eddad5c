"""What a run leaves behind: its configuration, its metrics, its place."""

import dataclasses
import importlib.metadata
import json
import math
import pathlib
import subprocess
import sys

from rnnjax.training import distributed, saved_run
from rnnjax.types import InvalidInputError


def config_to_dict(config) -> dict:
  """A configuration as a dict, without the fields that do not decide what is learnt."""
  excluded = {"workdir"} | {
    f.name for f in dataclasses.fields(config) if not f.metadata.get("affects_training", True)
  }
  return {k: v for k, v in dataclasses.asdict(config).items() if k not in excluded}


def experiment_name(config_class: type) -> str:
  """The module of a configuration's class, by its last name."""
  name = config_class.__module__
  return program_name() if name == "__main__" else name.split(".")[-1]


def program_name() -> str:
  """The last name of the module or file that runs; "notebook" where there is neither."""
  main = sys.modules["__main__"]
  if spec := getattr(main, "__spec__", None):  # run with python -m
    return spec.name.split(".")[-1]
  return pathlib.Path(getattr(main, "__file__", "notebook")).stem


def package_versions() -> dict[str, str]:
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


def check_run_dir(workdir: pathlib.Path, config):
  """Raises BadInput where `out` is the place of another configuration, and shows the difference."""
  path = workdir / "config.json"
  if not path.exists():
    return
  theirs = saved_run.read_config(path)
  mine = json.loads(json.dumps(config_to_dict(config)))
  rows = [
    f"  {name}: {theirs.get(name)!r} there, {mine.get(name)!r} asked for"
    for name in mine | theirs
    if mine.get(name) != theirs.get(name)
  ]
  if rows:
    raise InvalidInputError(
      "\n".join([f"{workdir} holds a run of another configuration:", *rows])
      + "\nGive the same flags to resume it, or another --workdir."
    )


def create_run_dir(workdir: pathlib.Path, config, extras: dict | None = None):
  """Makes `out` the place of this configuration, and of what must lie `beside` it.

  Raises:
    BadInput: it is the place of another one, or cannot be written.
  """
  check_run_dir(workdir, config)
  for name, value in (extras or {}).items():
    path = workdir / f"{name}.json"
    if path.exists() and saved_run.read_json(path) != json.loads(json.dumps(value)):
      raise InvalidInputError(
        f"{path} is not the {name} of this data. Has the data changed since that run began?"
      )
  if not distributed.is_primary_host():
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    for name, value in (extras or {}).items():
      _write_atomic(workdir / f"{name}.json", json.dumps(value) + "\n")
    if not (workdir / "config.json").exists():
      kept = {"experiment": experiment_name(type(config))}
      kept |= {"config": config_to_dict(config), "versions": package_versions()}
      _write_atomic(workdir / "config.json", json.dumps(kept, indent=2) + "\n")
  except OSError as error:
    raise InvalidInputError(f"--workdir={workdir} cannot be written: {error}") from None


def _write_atomic(path: pathlib.Path, text: str):
  """Writes a file that is whole or not there at all."""
  half = path.with_suffix(".half")
  half.write_text(text)
  half.replace(path)


def _step_of_line(line: str) -> float:
  """The step of a line; infinite where it was cut off."""
  try:
    return json.loads(line)["step"]
  except (json.JSONDecodeError, KeyError, TypeError):
    return math.inf


class MetricsWriter:
  """Metrics as JSON lines and, for TensorBoard, as events; nothing without a folder, and on hosts
  that do not write.

  Lines of steps beyond the one given, which a run wrote before it was lost, go; they come again.
  """

  def __init__(self, workdir: pathlib.Path | None, step: int = 0):
    self.jsonl_file = self.summary_writer = None
    if workdir and distributed.is_primary_host():
      from tensorboardX import SummaryWriter

      path = workdir / "metrics.jsonl"
      before = path.read_text().splitlines() if path.exists() else []
      _write_atomic(path, "".join(line + "\n" for line in before if _step_of_line(line) <= step))
      self.jsonl_file = open(path, "a")
      self.summary_writer = SummaryWriter(str(workdir), flush_secs=10, purge_step=step + 1)

  def write(self, step: int, **metrics: float):
    """Records metrics of a step."""
    if self.jsonl_file:
      self.jsonl_file.write(json.dumps({"step": step} | metrics) + "\n")
      self.jsonl_file.flush()
      for name, value in metrics.items():
        self.summary_writer.add_scalar(name, value, step)

  def close(self):
    """Flushes both."""
    if self.jsonl_file:
      self.jsonl_file.close()
      self.summary_writer.close()
