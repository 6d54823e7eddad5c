"""The run directory: config.json, additional JSON files, metrics, and loading of a saved run."""

import dataclasses
import importlib.metadata
import json
import math
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

from rnnjax.data.files import read_text
from rnnjax.data.tables import parse_json
from rnnjax.training import distributed
from rnnjax.types import InvalidInputError, Params


class SavedRun(NamedTuple):
  """A run that was loaded from its directory.

  Attributes:
    config: the configuration fields that affect training.
    params: the parameters with the best validation score.
    extras: {name: JSON value}, additional data that inference needs, such as a vocabulary.
    experiment: the name of the experiment; "" if config.json does not contain it.
  """

  config: dict[str, Any]
  params: Params
  extras: dict[str, Any]
  experiment: str = ""


def load_saved_run(workdir: str) -> SavedRun:
  """Load a run from its --workdir. No code in the files is executed, so untrusted files are safe.

  Raises:
    InvalidInputError: `workdir` does not contain a run of this library, the run has no checkpoint
      yet, or none of its checkpoints can be read.
  """
  from rnnjax.training.checkpoints import Checkpoints  # importing Orbax takes seconds

  folder = pathlib.Path(workdir).expanduser()
  if not (folder / "config.json").is_file():
    raise InvalidInputError(f"{workdir!r} is not the --workdir of a run: it has no config.json")
  config, extras = read_config_and_extras(folder)
  if not any((folder / "checkpoints").glob("*")):
    raise InvalidInputError(f"{workdir!r} has no checkpoint yet")
  checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
  tree = checkpoints.restore()
  checkpoints.close()
  if tree is None:  # the first checkpoint is still being written
    raise InvalidInputError(f"{workdir!r} has no checkpoint yet")
  if not isinstance(tree, dict) or not isinstance(tree.get("best_params"), dict):
    raise InvalidInputError(
      f"{workdir!r} has a checkpoint without best parameters. Was it written by another program?"
    )
  experiment = read_json(folder / "config.json").get("experiment", "")
  return SavedRun(config, tree["best_params"], extras, str(experiment))


def read_config_and_extras(workdir: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Return (configuration, {name: JSON value of an additional file}) of a run.

  Raises:
    InvalidInputError: a file is missing or does not have the format that a run writes.
  """
  extras = {path.stem: read_json(path) for path in workdir.glob("*.json") if path.stem != "config"}
  return read_config(workdir / "config.json"), extras


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """Read the configuration from the config.json of a run.

  Raises:
    InvalidInputError: the file is not the config.json of a run.
  """
  content = read_json(path)
  config = content.get("config") if isinstance(content, dict) else None
  if not isinstance(config, dict):
    raise InvalidInputError(f"{path} is not a configuration that this library wrote")
  return config


def read_json(path: pathlib.Path) -> Any:
  """Read a JSON file.

  Raises:
    InvalidInputError: the file is not valid JSON.
  """
  return parse_json(read_text(path), path)


def config_to_dict(config) -> dict:
  """Return a configuration as a dict, without `workdir` and fields that do not affect training."""
  excluded = {"workdir"} | {
    f.name for f in dataclasses.fields(config) if not f.metadata.get("affects_training", True)
  }
  return {k: v for k, v in dataclasses.asdict(config).items() if k not in excluded}


def experiment_name(config_class: type) -> str:
  """Return the last component of the name of the module that defines a configuration class.

  For a class of the main module, it is `program_name`.
  """
  name = config_class.__module__
  return program_name() if name == "__main__" else name.split(".")[-1]


def program_name() -> str:
  """Return the name of the main module or file without its package; "notebook" in a notebook."""
  main = sys.modules["__main__"]
  if spec := getattr(main, "__spec__", None):  # started by python -m
    return spec.name.split(".")[-1]
  return pathlib.Path(getattr(main, "__file__", "notebook")).stem


def package_versions() -> dict[str, str]:
  """Return the git commit and the versions of the packages that determine results."""
  root = pathlib.Path(__file__).parents[2]
  describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
  try:
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
  except FileNotFoundError:  # git is not installed
    commit = ""
  packages = ("jax", "jaxlib", "flax", "optax", "numpy")
  return {"commit": commit or "unknown"} | {
    package: importlib.metadata.version(package) for package in packages
  }


def check_run_dir(workdir: pathlib.Path, config):
  """Check that a run directory contains no run or a run with this configuration.

  Raises:
    InvalidInputError: the run in the directory has another configuration; the message lists the
      differences.
  """
  path = workdir / "config.json"
  if not path.exists():
    return
  saved = read_config(path)
  requested = _json_round_trip(config_to_dict(config))
  differences = [
    f"  {name}: saved {saved.get(name)!r}, requested {requested.get(name)!r}"
    for name in requested | saved
    if requested.get(name) != saved.get(name)
  ]
  if differences:
    raise InvalidInputError(
      "\n".join([f"{workdir} holds a run of another configuration:", *differences])
      + "\nUse the same flags to resume it, or another --workdir."
    )


def create_run_dir(workdir: pathlib.Path, config, extras: dict | None = None):
  """Create a run directory with config.json and one JSON file for each of `extras`.

  Raises:
    InvalidInputError: the directory contains a run with another configuration or other extras, or
      cannot be written.
  """
  check_run_dir(workdir, config)
  extras = extras or {}
  for name, value in extras.items():
    path = workdir / f"{name}.json"
    if path.exists() and read_json(path) != _json_round_trip(value):
      raise InvalidInputError(
        f"{path} is not the {name} of this data. Has the data changed since that run began?"
      )
  if not distributed.is_primary_host():
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    for name, value in extras.items():
      _write_atomic(workdir / f"{name}.json", json.dumps(value) + "\n")
    if not (workdir / "config.json").exists():
      content = {"experiment": experiment_name(type(config))}
      content |= {"config": config_to_dict(config), "versions": package_versions()}
      _write_atomic(workdir / "config.json", json.dumps(content, indent=2) + "\n")
  except OSError as error:
    raise InvalidInputError(f"--workdir={workdir} cannot be written: {error}") from None


def _json_round_trip(value):
  """Convert a value to JSON and back: tuples become lists, and keys become strings."""
  return json.loads(json.dumps(value))


def _write_atomic(path: pathlib.Path, text: str):
  """Write a file atomically: after a crash its content is either the new or the old text."""
  partial = path.with_suffix(".partial")
  partial.write_text(text)
  partial.replace(path)


def _step_of_line(line: str) -> float:
  """Return the training step of a line of metrics.jsonl; infinity if the line was cut off."""
  try:
    return json.loads(line)["step"]
  except (json.JSONDecodeError, KeyError, TypeError):
    return math.inf


class MetricsWriter:
  """Writer of metrics to metrics.jsonl and TensorBoard events.

  Only the primary host writes. If `workdir` is None, nothing is written.

  Args:
    workdir: the run directory, or None.
    step: the step from which the run resumes. Lines of later steps, which a killed run wrote after
      its last checkpoint, are removed, because those steps are repeated.
  """

  def __init__(self, workdir: pathlib.Path | None, step: int = 0):
    self.jsonl_file = self.summary_writer = None
    if workdir and distributed.is_primary_host():
      from tensorboardX import SummaryWriter

      path = workdir / "metrics.jsonl"
      lines = path.read_text().splitlines() if path.exists() else []
      _write_atomic(path, "".join(line + "\n" for line in lines if _step_of_line(line) <= step))
      self.jsonl_file = open(path, "a")
      self.summary_writer = SummaryWriter(str(workdir), flush_secs=10, purge_step=step + 1)

  def write(self, step: int, **metrics: float):
    """Write the metrics of a step."""
    if self.jsonl_file:
      self.jsonl_file.write(json.dumps({"step": step} | metrics) + "\n")
      self.jsonl_file.flush()  # so that a killed run loses no line
      for name, value in metrics.items():
        self.summary_writer.add_scalar(name, value, step)

  def close(self):
    """Flush and close both files."""
    if self.jsonl_file:
      self.jsonl_file.close()
      self.summary_writer.close()
